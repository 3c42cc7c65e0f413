#!/usr/bin/env python3
"""Make guard-eval/testdata/metrics.json: what scikit-learn, statsmodels, SciPy and NumPy say of small made-up rows.

* binary       counts, rank metrics, Brier score and calibration error of rows with truth, answers and scores. A score
               is null where the rows do not define it. `ece_width` and `ece_mass` bin as `calibration_curve` does,
               and a score on an edge belongs to the bin below. The edges are floating point: where one of equal mass
               falls on a row, the rounding of (k / 15 * 100) / 100 * (n - 1) says on which side that row is.
* curves       some of the binary cases again, with each point of both curves.
* wilson, mcnemar, holm, percentiles
               the functions of statsmodels and NumPy of that name.
* bootstrap    intervals of F1 from resampled groups of rows, and
* paired       of the difference of two F1s. Both carry the noise of their 20000 draws.

    pip install scikit-learn==1.9.1 scipy==1.17.1 statsmodels==0.15.0 numpy==2.4.6 pandas==3.1.1
    python3 scripts/eval_goldens.py

The seed is fixed: two runs on one machine give byte-identical files. The committed file was made with the versions
above; others may change the last bits.
"""
import json
import math
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.stats
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.exceptions import UndefinedMetricWarning
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

OUTPUT = Path(__file__).resolve().parent.parent / "guard-eval" / "testdata" / "metrics.json"
LIBRARIES = ("scikit-learn", "scipy", "statsmodels", "numpy")
SEED = 20250131
BINS = 15
FPR_LIMITS = (0.01, 0.05)
RECALL_LIMITS = (0.90, 0.95, 0.99)
LEVEL = 0.95
DRAWS = 20_000


def generator(*stream):
    """One stream a section, so that a new case moves no case of another section."""
    return np.random.default_rng([SEED, *stream])


# Rows


def skilled(rng, n, base=0.4, skill=1.5, sharpness=1.0):
    """Truth, and scores that tell it apart by `skill`; `sharpness` above 1 is too sure of itself."""
    truth = (rng.random(n) < base).astype(int)
    logits = sharpness * (rng.normal(size=n) + skill * (truth - 0.5))
    return truth, 1 / (1 + np.exp(-logits))


def coins(rng, n, share=0.5):
    return (rng.random(n) < share).astype(int)


def shuffled(rng, positives, n):
    return rng.permutation(np.repeat([1, 0], [positives, n - positives]))


def binary_rows():
    """(name, truth, scores, answers) of each case; answers of None are scores >= 0.5."""
    yield from continuous_rows(generator(1, 0))
    yield from tied_rows(generator(1, 1))
    yield from one_sided_rows(generator(1, 2))
    yield from tiny_rows(generator(1, 3))
    yield from extreme_rows(generator(1, 4))
    yield from border_rows(generator(1, 5))
    yield from imbalanced_rows(generator(1, 6))


def continuous_rows(rng):
    for index in range(44):
        n = int(rng.integers(5, 70))
        truth, scores = skilled(rng, n, base=rng.uniform(0.15, 0.85), skill=rng.uniform(0, 4), sharpness=rng.uniform(0.5, 4))
        yield f"continuous {index}", truth, scores, None
    for index in range(18):
        truth, scores = skilled(rng, int(rng.integers(5, 60)))
        yield f"independent answers {index}", truth, scores, coins(rng, len(truth), rng.uniform(0.2, 0.8))
    for n in (120, 151, 200):
        yield f"continuous n={n}", *skilled(rng, n), None


def tied_rows(rng):
    for index in range(26):
        truth, scores = skilled(rng, int(rng.integers(8, 160)), skill=rng.uniform(0, 3))
        yield f"one digit {index}", truth, scores.round(1), None
    for index in range(14):
        n = int(rng.integers(6, 120))
        values = rng.choice([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0], size=3, replace=False)
        yield f"three values {index}", coins(rng, n), rng.choice(values, size=n), None
    for index in range(6):
        n = int(rng.integers(8, 40))
        close = np.nextafter(0.3, [0.0, 0.3, 1.0])
        yield f"one ulp apart {index}", coins(rng, n), rng.choice(close, size=n), coins(rng, n)
    for score in (0.0, 0.1, 0.5, 1.0):
        yield f"all scores {score}", coins(rng, 30), np.full(30, score), None
    for n in (7, 151):
        yield f"all scores 0.3 n={n}", coins(rng, n), np.full(n, 0.3), coins(rng, n)


def one_sided_rows(rng):
    for n in (5, 15, 16, 40, 75):
        for truth in (1, 0):
            name = f"all {'positive' if truth else 'negative'} n={n}"
            yield name, np.full(n, truth), rng.random(n), None
            yield f"all answered {name.removeprefix('all ')}", *skilled(rng, n), np.full(n, truth)
    for truth in (1, 0):
        for answer in (1, 0):
            yield f"all {truth}, all answered {answer}", np.full(12, truth), rng.random(12).round(2), np.full(12, answer)


def tiny_rows(rng):
    for truth in (1, 0):
        for score in (0.0, 0.3, 0.5, 1.0):
            yield f"one row {truth} at {score}", np.array([truth]), np.array([score]), None
    for truth in ((1, 0), (0, 1), (1, 1), (0, 0)):
        for scores in ((0.8, 0.2), (0.4, 0.6), (0.5, 0.5)):
            yield f"two rows {truth} at {scores}", np.array(truth), np.array(scores), None


def extreme_rows(rng):
    for n in (4, 31, 60):
        truth = shuffled(rng, n // 2, n)
        spread = rng.uniform(0.0, 0.49, size=n)
        yield f"perfect n={n}", truth, np.where(truth == 1, 1 - spread, spread), None
        yield f"perfectly wrong n={n}", truth, np.where(truth == 1, spread, 1 - spread), None
        yield f"perfect and certain n={n}", truth, truth.astype(float), None
        yield f"wrong and certain n={n}", truth, 1.0 - truth, None


def border_rows(rng):
    edges = np.linspace(0, 1, BINS + 1)
    fractions = np.array([k / BINS for k in range(BINS + 1)])
    kinds = {
        "edges": edges,
        "fractions": fractions,
        "edges and neighbours": np.clip([np.nextafter(edges, 0), edges, np.nextafter(edges, 1)], 0, 1).ravel(),
        "tenths and edges": np.concatenate([edges, np.linspace(0, 1, 11)]),
    }
    for name, values in kinds.items():
        yield f"each of {name}", coins(rng, len(values)), values, None
        drawn = rng.choice(values, size=90)
        yield f"drawn {name}", (rng.random(90) < drawn).astype(int), drawn, None
    # With 15 k + 1 rows each edge between bins of equal mass falls on a row, but for rounding.
    for n in (16, 31, 46, 76, 151):
        yield f"edges on rows n={n}", *skilled(rng, n), None
    for digits in (1, 2, 3):
        truth, scores = skilled(rng, 151)
        yield f"edges on rows n=151 {digits} digits", truth, scores.round(digits), None


def imbalanced_rows(rng):
    for index in range(4):
        truth = shuffled(rng, 2, 200)
        scores = np.clip(rng.beta(1, 6, size=200) + truth * rng.uniform(0, 0.6), 0, 1).round(4)
        yield f"2 of 200 positive {index}", truth, scores, None
    for index in range(3):
        truth = shuffled(rng, 198, 200)
        scores = np.clip(rng.beta(6, 1, size=200) - (1 - truth) * rng.uniform(0, 0.6), 0, 1).round(4)
        yield f"198 of 200 positive {index}", truth, scores, None
    for index in range(2):
        yield f"1 of 100 positive {index}", shuffled(rng, 1, 100), rng.random(100).round(3), None
    # Rates of exactly 0.05 and 0.01 false alarms, and 0.9, 0.95 and 0.99 recall, are reachable.
    for n in (40, 200):
        truth = shuffled(rng, n // 2, n)
        yield f"exact limits n={n}", truth, np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1).round(6), None


# Metrics of rows


def calibration_error(truth, scores, strategy):
    quantiles = np.linspace(0, 1, BINS + 1)
    edges = quantiles if strategy == "uniform" else np.percentile(scores, quantiles * 100)
    ids = np.searchsorted(edges[1:-1], scores)
    bins = [ids == index for index in np.unique(ids)]
    said = np.array([scores[rows].mean() for rows in bins])
    seen = np.array([truth[rows].mean() for rows in bins])
    prob_true, prob_pred = calibration_curve(truth, scores, n_bins=BINS, strategy=strategy)
    assert np.allclose(seen, prob_true, rtol=0, atol=1e-12) and np.allclose(said, prob_pred, rtol=0, atol=1e-12)
    counts = np.array([rows.sum() for rows in bins])
    return float((counts / len(scores) * np.abs(said - seen)).sum())


def rank_metrics(truth, scores):
    """Those that need positives and negatives, null without."""
    if len(set(truth.tolist())) == 1:
        unknown = {"roc_auc": None}
        unknown["recall_at_fpr"] = [[limit, None] for limit in FPR_LIMITS]
        unknown["fpr_at_recall"] = [[limit, None] for limit in RECALL_LIMITS]
        return unknown
    fpr, tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    return {
        "roc_auc": float(metrics.roc_auc_score(truth, scores)),
        "recall_at_fpr": [[limit, float(tpr[fpr <= limit].max())] for limit in FPR_LIMITS],
        "fpr_at_recall": [[limit, float(fpr[tpr >= limit].min())] for limit in RECALL_LIMITS],
    }


def count_metrics(truth, answers):
    negatives = int((truth == 0).sum())
    false_alarms = int(((truth == 0) & (answers == 1)).sum())
    return {
        "precision": float(metrics.precision_score(truth, answers, zero_division=0)),
        "recall": float(metrics.recall_score(truth, answers, zero_division=0)),
        "f1": float(metrics.f1_score(truth, answers, zero_division=0)),
        "accuracy": float(metrics.accuracy_score(truth, answers)),
        "specificity": float(metrics.recall_score(truth, answers, pos_label=0, zero_division=0)),
        "false_positive_rate": false_alarms / negatives if negatives else 0.0,
        "matthews": float(metrics.matthews_corrcoef(truth, answers)),
    }


def binary_case(name, truth, scores, answers):
    answers = (scores >= 0.5).astype(int) if answers is None else answers
    precision = float(metrics.average_precision_score(truth, scores)) if truth.any() else None
    return {
        "name": name,
        "truth": truth.tolist(),
        "answers": answers.tolist(),
        "scores": scores.tolist(),
        **count_metrics(truth, answers),
        "average_precision": precision,
        "brier": float(metrics.brier_score_loss(truth, scores)),
        "ece_width": calibration_error(truth, scores, "uniform"),
        "ece_mass": calibration_error(truth, scores, "quantile"),
        **rank_metrics(truth, scores),
    }


def with_curves(case):
    truth, scores = case["truth"], case["scores"]
    precision, recall, cuts = metrics.precision_recall_curve(truth, scores, drop_intermediate=False)
    fpr, tpr, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
    return {
        **case,
        "pr": {"precision": precision.tolist(), "recall": recall.tolist(), "thresholds": cuts.tolist()},
        "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist(), "thresholds": [finite(cut) for cut in thresholds.tolist()]},
    }


def finite(value):
    return value if math.isfinite(value) else None


CURVES = (
    "continuous 0",
    "continuous 1",
    "continuous 2",
    "independent answers 0",
    "one digit 0",
    "one digit 1",
    "three values 0",
    "one ulp apart 0",
    "all scores 0.5",
    "two rows (1, 0) at (0.8, 0.2)",
    "two rows (1, 0) at (0.5, 0.5)",
    "perfect n=31",
    "perfectly wrong n=31",
    "each of fractions",
    "2 of 200 positive 0",
)


def binary_cases():
    with warnings.catch_warnings():
        # Undefined is what many cases are about; scikit-learn's 0 is the expected value there.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
        cases = [binary_case(*rows) for rows in binary_rows()]
    assert len({case["name"] for case in cases}) == len(cases)
    return cases


# Intervals and tests


def wilson_cases():
    rng = generator(2)
    pairs = [(0, 1), (1, 1), (1, 2), (0, 5), (5, 5), (0, 100), (100, 100), (1, 100), (99, 100), (50, 100)]
    pairs += [(0, 10_000), (10_000, 10_000), (1, 1_000_000), (999_999, 1_000_000), (178, 239), (266, 359)]
    while len(pairs) < 60:
        total = int(10 ** rng.uniform(0, 4))
        pair = (int(rng.integers(0, total + 1)), total)
        pairs += [pair] if pair not in pairs else []
    return [wilson_case(count, total) for count, total in pairs]


def wilson_case(count, total):
    low, high = proportion_confint(count, total, alpha=0.05, method="wilson")
    return {"count": count, "total": total, "low": float(low), "high": float(high)}


def mcnemar_cases():
    rng = generator(3)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 5), (0, 6), (6, 0), (5, 5), (3, 4), (8, 1), (10, 20), (20, 10)]
    pairs += [(100, 100), (100, 101), (0, 1000), (1000, 1000), (950, 1050), (1050, 950), (999, 1001)]
    pairs += [(600, 1400), (0, 2000)]
    while len(pairs) < 60:
        discordant = int(10 ** rng.uniform(0, 3.3))
        first = int(rng.binomial(discordant, rng.uniform(0.3, 0.7)))
        pair = (first, discordant - first)
        pairs += [pair] if pair not in pairs else []
    return [mcnemar_case(first, second) for first, second in pairs]


def mcnemar_case(first, second):
    # The rows on which both are right or both wrong do not matter.
    p = mcnemar([[7, first], [second, 3]], exact=True).pvalue
    return {"only_first": first, "only_second": second, "p": float(p)}


def holm_cases():
    rng = generator(4)
    lists = [[0.03], [0.0], [1.0], [0.0, 0.0], [1.0, 1.0, 1.0], [0.01, 0.04], [0.04, 0.01], [0.02, 0.02, 0.02]]
    lists += [[0.01, 0.02, 0.02, 0.05], [0.0, 0.5, 1.0], [0.04, 0.03, 0.02, 0.01], [1e-300, 1e-12, 0.9]]
    lists += [[0.3, 0.0, 0.3, 1.0, 0.01]]
    while len(lists) < 22:
        lists.append(rng.beta(0.4, 2, size=int(rng.integers(2, 25))).tolist())
    while len(lists) < 30:
        lists.append(rng.beta(0.4, 2, size=int(rng.integers(4, 30))).round(2).tolist())
    return [{"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()} for p in lists]


def percentile_cases():
    rng = generator(5)
    lists = [[3.5], [0.0], [1.0, 2.0], [2.0, 1.0], [5.0, 5.0, 5.0], [3.0, 1.0, 2.0], [-1.0, 0.0, 1.0, 1e9], [0.1, 0.2, 0.3, 0.4]]
    lists += [rng.normal(size=n).tolist() for n in (5, 10, 19, 20, 21, 50, 99, 100, 101, 150, 200, 201)]
    lists += [rng.exponential(250, size=int(rng.integers(5, 120))).tolist() for _ in range(6)]
    lists += [rng.normal(size=int(rng.integers(20, 120))).round(1).tolist() for _ in range(4)]
    q = [0, 50, 95, 99, 100]
    return [{"values": values, "q": q, "expected": np.percentile(values, q).tolist()} for values in lists]


# Resampling


def grouped_rows(rng, n, largest, systems=1):
    """Truth, the answers of each system, and group numbers; the rows of a group are alike."""
    sizes = []
    while sum(sizes) < n:
        sizes.append(int(rng.integers(1, largest + 1)))
    groups = np.repeat(np.arange(len(sizes)), sizes)[:n]
    hardness = rng.uniform(0.02, 0.45, size=len(sizes))[groups]
    leaning = rng.uniform(0.1, 0.9, size=len(sizes))[groups] if largest > 1 else 0.45
    truth = (rng.random(n) < leaning).astype(int)
    answers = [np.where(rng.random(n) < hardness * (1 + 0.4 * index), 1 - truth, truth) for index in range(systems)]
    order = rng.permutation(n)
    return truth[order], [answer[order] for answer in answers], groups[order]


def f1_of(truth, answers, axis=-1):
    found = (truth & answers).sum(axis=axis)
    called = truth.sum(axis=axis) + answers.sum(axis=axis)
    return 2 * found / np.maximum(called, 1)


def resampled_f1(weights, truth, answers, groups):
    """F1 of each draw; `weights` says how often each draw took each group."""
    found = np.bincount(groups, weights=truth & answers).astype(int)
    called = np.bincount(groups, weights=truth + answers).astype(int)
    return 2 * (weights @ found) / np.maximum(weights @ called, 1)


def group_weights(rng, groups):
    count = groups.max() + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)


def interval(values):
    tail = 100 * (1 - LEVEL) / 2
    return [float(end) for end in np.percentile(values, [tail, 100 - tail])]


def scipy_interval(truth, answers):
    result = scipy.stats.bootstrap(
        (truth, answers), f1_of, paired=True, method="percentile", confidence_level=LEVEL,
        n_resamples=DRAWS, batch=1000, vectorized=True, rng=generator(6, 999),
    )
    return result.confidence_interval


def bootstrap_cases():
    shapes = [("rows", n, 1) for n in (150, 261, 400)] + [("groups of 1 to 5", n, 5) for n in (150, 280, 400)]
    return [bootstrap_case(generator(6, index), *shape) for index, shape in enumerate(shapes)]


def bootstrap_case(rng, name, n, largest):
    truth, (answers,), groups = grouped_rows(rng, n, largest)
    assert math.isclose(f1_of(truth, answers), metrics.f1_score(truth, answers))
    low, high = interval(resampled_f1(group_weights(rng, groups), truth, answers, groups))
    if largest == 1:
        assert np.allclose([low, high], scipy_interval(truth, answers), rtol=0, atol=0.02)
    return {
        "name": f"{name} n={n}",
        "truth": truth.tolist(),
        "answers": answers.tolist(),
        "groups": groups.tolist(),
        "level": LEVEL,
        "draws": DRAWS,
        "f1_low": low,
        "f1_high": high,
    }


def paired_cases():
    shapes = [(150, 1), (400, 1), (220, 5), (400, 4)]
    return [paired_case(generator(7, index), *shape) for index, shape in enumerate(shapes)]


def paired_case(rng, n, largest):
    truth, (first, second), groups = grouped_rows(rng, n, largest, systems=2)
    weights = group_weights(rng, groups)
    low, high = interval(resampled_f1(weights, truth, first, groups) - resampled_f1(weights, truth, second, groups))
    return {
        "truth": truth.tolist(),
        "first": first.tolist(),
        "second": second.tolist(),
        "groups": groups.tolist(),
        "difference": float(f1_of(truth, first) - f1_of(truth, second)),
        "low": low,
        "high": high,
    }


def write(sections):
    """One case a line, so that a change of the file can be read."""
    made_by = {"script": "scripts/eval_goldens.py", **{name: version(name) for name in LIBRARIES}}
    parts = [f' "made_by": {json.dumps(made_by)}']
    for name, cases in sections.items():
        lines = ",\n".join("  " + json.dumps(case, allow_nan=False, separators=(",", ":")) for case in cases)
        parts.append(f' "{name}": [\n{lines}\n ]')
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main():
    binary = binary_cases()
    by_name = {case["name"]: case for case in binary}
    sections = {
        "binary": binary,
        "curves": [with_curves(by_name[name]) for name in CURVES],
        "wilson": wilson_cases(),
        "mcnemar": mcnemar_cases(),
        "holm": holm_cases(),
        "percentiles": percentile_cases(),
        "bootstrap": bootstrap_cases(),
        "paired": paired_cases(),
    }
    write(sections)
    print(", ".join(f"{len(cases)} {name}" for name, cases in sections.items()))


if __name__ == "__main__":
    main()
