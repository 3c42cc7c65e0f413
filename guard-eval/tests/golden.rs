//! Every metric against scikit-learn, scipy, statsmodels and numpy: the cases are made by
//! scripts/eval_goldens.py.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use guard_eval::{
    Bins, Bootstrap, Confusion, Interval, Ranking, Ratio, brier_score, compare,
    expected_calibration_error, holm, mcnemar_exact, quantile, reliability,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    binary: Vec<Binary>,
    curves: Vec<Curve>,
    wilson: Vec<Wilson>,
    mcnemar: Vec<McNemar>,
    holm: Vec<Holm>,
    percentiles: Vec<Percentiles>,
    bootstrap: Vec<Resampled>,
    paired: Vec<Paired>,
}

#[derive(Deserialize)]
struct Binary {
    name: String,
    truth: Vec<u8>,
    answers: Vec<u8>,
    scores: Vec<f64>,
    precision: f64,
    recall: f64,
    f1: f64,
    accuracy: f64,
    specificity: f64,
    false_positive_rate: f64,
    matthews: f64,
    average_precision: Option<f64>,
    roc_auc: Option<f64>,
    brier: f64,
    ece_width: f64,
    ece_mass: f64,
    recall_at_fpr: Vec<(f64, Option<f64>)>,
    fpr_at_recall: Vec<(f64, Option<f64>)>,
}

#[derive(Deserialize)]
struct Curve {
    truth: Vec<u8>,
    scores: Vec<f64>,
    pr: PrArrays,
    roc: RocArrays,
}

#[derive(Deserialize)]
struct PrArrays {
    precision: Vec<f64>,
    recall: Vec<f64>,
    thresholds: Vec<f64>,
}

#[derive(Deserialize)]
struct RocArrays {
    fpr: Vec<f64>,
    tpr: Vec<f64>,
    thresholds: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct Wilson {
    count: u64,
    total: u64,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct McNemar {
    only_first: u64,
    only_second: u64,
    p: f64,
}

#[derive(Deserialize)]
struct Holm {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct Percentiles {
    values: Vec<f64>,
    q: Vec<f64>,
    expected: Vec<f64>,
}

#[derive(Deserialize)]
struct Resampled {
    name: String,
    truth: Vec<u8>,
    answers: Vec<u8>,
    groups: Vec<u32>,
    f1_low: f64,
    f1_high: f64,
}

#[derive(Deserialize)]
struct Paired {
    truth: Vec<u8>,
    first: Vec<u8>,
    second: Vec<u8>,
    groups: Vec<u32>,
    difference: f64,
    low: f64,
    high: f64,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/metrics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Equal to 1e-12, as a share where the value is above 1.
fn assert_close(found: f64, expected: f64, what: &str) {
    let scale = expected.abs().max(1.0);
    assert!((found - expected).abs() <= 1e-12 * scale, "{what}: {found} is not {expected}");
}

fn assert_same(found: Option<f64>, expected: Option<f64>, what: &str) {
    match (found, expected) {
        (Some(found), Some(expected)) => assert_close(found, expected, what),
        (found, expected) => assert_eq!(found, expected, "{what}"),
    }
}

fn rows(scores: &[f64], truth: &[u8]) -> Vec<(f64, bool)> {
    scores.iter().copied().zip(truth.iter().map(|truth| *truth == 1)).collect()
}

fn counts(truth: &[u8], answers: &[u8]) -> Vec<Confusion> {
    let rows = truth.iter().zip(answers);
    rows.map(|(truth, answer)| Confusion::of(*truth == 1, *answer == 1, 1)).collect()
}

fn total(counts: &[Confusion]) -> Confusion {
    counts.iter().fold(Confusion::default(), |sum, count| sum.merged(*count))
}

#[test]
fn fault_t60_counts_and_their_ratios() {
    let goldens = goldens();
    assert!(goldens.binary.len() >= 200);
    for case in goldens.binary {
        let sum = total(&counts(&case.truth, &case.answers));
        for (found, expected, what) in [
            (sum.precision().value(), case.precision, "precision"),
            (sum.recall().value(), case.recall, "recall"),
            (sum.f1().value(), case.f1, "f1"),
            (sum.accuracy().value(), case.accuracy, "accuracy"),
            (sum.specificity().value(), case.specificity, "specificity"),
            (sum.false_positive_rate().value(), case.false_positive_rate, "false positive rate"),
            (sum.matthews(), case.matthews, "matthews"),
        ] {
            assert_close(found, expected, &format!("{}: {what}", case.name));
        }
    }
}

#[test]
fn fault_t60_scores_and_calibration() {
    for case in goldens().binary {
        let rows = rows(&case.scores, &case.truth);
        let ranking = Ranking::new(rows.iter().copied()).unwrap();
        let what = |name: &str| format!("{}: {name}", case.name);
        assert_same(ranking.average_precision(), case.average_precision, &what("ap"));
        assert_same(ranking.roc_auc(), case.roc_auc, &what("auc"));
        assert_same(brier_score(&rows), Some(case.brier), &what("brier"));
        for (bins, expected) in
            [(Bins::EqualWidth(15), case.ece_width), (Bins::EqualMass(15), case.ece_mass)]
        {
            let found = expected_calibration_error(&reliability(&rows, bins).unwrap());
            assert_same(found, Some(expected), &what(&format!("{bins:?}")));
        }
        for (limit, expected) in &case.recall_at_fpr {
            assert_same(ranking.recall_at_fpr(*limit), *expected, &what("recall at fpr"));
        }
        for (least, expected) in &case.fpr_at_recall {
            assert_same(ranking.fpr_at_recall(*least), *expected, &what("fpr at recall"));
        }
    }
}

#[test]
fn fault_t60_curves_point_by_point() {
    for case in goldens().curves {
        let ranking = Ranking::new(rows(&case.scores, &case.truth)).unwrap();
        let mut points = ranking.precision_recall();
        // scikit-learn begins at the lowest threshold and ends with a point of its own.
        points.reverse();
        assert_eq!(points.len() + 1, case.pr.precision.len());
        for (index, point) in points.iter().enumerate() {
            assert_close(point.precision, case.pr.precision[index], "precision");
            assert_close(point.recall, case.pr.recall[index], "recall");
            assert_close(point.threshold, case.pr.thresholds[index], "threshold");
        }
        let points = ranking.roc();
        assert_eq!(points.len(), case.roc.fpr.len());
        for (index, point) in points.iter().enumerate() {
            assert_close(point.false_positive_rate, case.roc.fpr[index], "fpr");
            assert_close(point.recall, case.roc.tpr[index], "tpr");
            let threshold = case.roc.thresholds[index].unwrap_or(f64::INFINITY);
            assert!(point.threshold == threshold);
        }
    }
}

#[test]
fn fault_t60_intervals_tests_and_percentiles() {
    let goldens = goldens();
    for case in goldens.wilson {
        let found = Interval::wilson(Ratio::of(case.count, case.total)).unwrap();
        assert_close(found.low, case.low, "wilson low");
        assert_close(found.high, case.high, "wilson high");
    }
    for case in goldens.mcnemar {
        assert_close(mcnemar_exact(case.only_first, case.only_second), case.p, "mcnemar");
    }
    for case in goldens.holm {
        for (found, expected) in holm(&case.p).into_iter().zip(case.adjusted) {
            assert_close(found, expected, "holm");
        }
    }
    for case in goldens.percentiles {
        for (q, expected) in case.q.iter().zip(case.expected) {
            assert_close(quantile(&case.values, q / 100.0).unwrap(), expected, "percentile");
        }
    }
}

/// Draws differ from the reference's, so the ends agree to the spread of 20,000 draws: the
/// standard error of an end is about 0.001 here.
#[test]
fn fault_t60_bootstrap_intervals() {
    let goldens = goldens();
    let bootstrap = Bootstrap { draws: 20_000, seed: 0 };
    let near = |found: f64, expected: f64| (found - expected).abs() < 0.005;
    for case in goldens.bootstrap {
        let counts = counts(&case.truth, &case.answers);
        let rows: Vec<_> = case.groups.iter().copied().zip(counts).collect();
        let draws = bootstrap.confusions(&rows);
        let draws: Vec<f64> = draws.iter().map(|draw| draw.f1().value()).collect();
        let found = Interval::of_draws(&draws).unwrap();
        let what = format!("{}: {found:?}, not {} {}", case.name, case.f1_low, case.f1_high);
        assert!(near(found.low, case.f1_low) && near(found.high, case.f1_high), "{what}");
    }
    for case in goldens.paired {
        let pairs = counts(&case.truth, &case.first)
            .into_iter()
            .zip(counts(&case.truth, &case.second))
            .map(|(first, second)| [first, second]);
        let rows: Vec<_> = case.groups.iter().copied().zip(pairs).collect();
        let found = compare(&rows, &bootstrap);
        assert_close(found.f1_difference, case.difference, "difference");
        let interval = found.f1_interval.unwrap();
        assert!(near(interval.low, case.low) && near(interval.high, case.high), "{interval:?}");
    }
}
