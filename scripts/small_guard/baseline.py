#!/usr/bin/env python3
"""The baseline that a small guard has to beat: TF-IDF of character 2-5-grams with logistic regression.

    python3 scripts/small_guard/baseline.py ROWS DATA [--strength 10] [--draws 2000]

ROWS is the folder that data.py wrote; the requests of its prompts.jsonl are learnt from. DATA has
`benchmark/` with the reference's files. Prints for each set of requests F1 with a 95 percent interval (bootstrap) and
ROC AUC, and F1 weighted by rows. Needs scikit-learn.
"""
import argparse
import json
import pathlib

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

SETS = {
    "SimpleSafetyTests": "0_0_SimpleSafetyTests.json",
    "AegisSafetyTest": "0_1_AegisSafetyTest.json",
    "OpenAIModeration": "0_2_OpenAIModeration.json",
    "HarmBenchPrompt": "0_3_harmbench_prompt.json",
}

arguments = argparse.ArgumentParser()
arguments.add_argument("rows", type=pathlib.Path)
arguments.add_argument("data", type=pathlib.Path)
arguments.add_argument("--strength", type=float, default=10, help="the inverse of the regularisation, C")
arguments.add_argument("--draws", type=int, default=2000)
arguments = arguments.parse_args()


def json_lines(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def benchmark(name):
    rows = json.loads((arguments.data / "benchmark" / name).read_text(encoding="utf-8"))
    texts = [row["input"].removeprefix("Human user:\n").rsplit("\n\nAI assistant:\n", 1)[0] for row in rows]
    return texts, np.array([row["output"].strip() == "harmful" for row in rows])


def of_samples(name):
    samples = [sample for sample in json_lines(arguments.rows / name) if "response" not in sample]
    labels = np.array([sample["labels"]["request"] == "harmful" for sample in samples])
    return [sample["prompt"] for sample in samples], labels


texts, labels = of_samples("prompts.jsonl")
grams = TfidfVectorizer(analyzer="char", ngram_range=(2, 5), min_df=2, sublinear_tf=True)
model = LogisticRegression(C=arguments.strength, max_iter=2000).fit(grams.fit_transform(texts), labels)
print(f"learnt from {len(texts)} requests, {labels.sum()} of them harmful")

rng = np.random.default_rng(0)
total, rows = 0.0, 0
sets = {name: benchmark(file) for name, file in SETS.items()} | {"held out": of_samples("held_out.jsonl")}
for name, (texts, labels) in sets.items():
    scores = model.decision_function(grams.transform(texts))
    found = scores > 0
    f1 = f1_score(labels, found)
    draws = rng.integers(0, len(labels), (arguments.draws, len(labels)))
    low, high = np.percentile([f1_score(labels[draw], found[draw]) for draw in draws], [2.5, 97.5])
    auc = roc_auc_score(labels, scores) if 0 < labels.sum() < len(labels) else float("nan")
    print(f"{name:18} {len(labels):5} rows  F1 {100 * f1:.2f} ({100 * low:.1f} to {100 * high:.1f})  ROC AUC {auc:.3f}")
    if name in SETS:
        total, rows = total + len(labels) * f1, rows + len(labels)
print(f"F1 weighted by rows over the published sets: {100 * total / rows:.2f}")
