#!/usr/bin/env python3
"""Preference pairs of the published outputs: for each prompt that one model of two answers right and the
other wrong, the right text and the wrong one. For trying HS-DPO on real texts; the pairs are of benchmarks,
so a model that was trained on them must not be scored on these.

    python3 scripts/published_pairs.py PREDICTIONS_FOLDER PAIRS.jsonl

The published files are research data under licences of their own and not part of this project.
"""
import json
import pathlib
import sys

from published_labels import letters

# Which of the three answers a set's labels are for.
TASKS = {"AegisSafetyTest": 0, "HarmBenchPrompt": 0, "SimpleSafetyTests": 0, "XSTestResponseRefusal": 1,
         "HarmBenchResponse": 2, "XSTestReponseHarmful": 2}
SPLIT = "\n\nHuman user:\n"

root, output = map(pathlib.Path, sys.argv[1:3])
pairs = []
for name, task in TASKS.items():
    files = [root / size / name / "generated_predictions.jsonl" for size in ("1B", "8B")]
    models = [[json.loads(line) for line in path.open(encoding="utf-8")] for path in files]
    for rows in zip(*models, strict=True):
        assert rows[0]["prompt"] == rows[1]["prompt"]
        expected = rows[0]["label"][0]
        right = [letters(row["predict"])[task] == expected for row in rows]
        readable = all("?" not in letters(row["predict"]) for row in rows)
        if readable and right[0] != right[1]:
            instruction, user = rows[0]["prompt"].split(SPLIT, 1)
            chosen, rejected = (rows[right.index(which)]["predict"] for which in (True, False))
            pairs.append({"instruction": instruction, "input": (SPLIT + user).lstrip("\n"), "chosen": chosen,
                          "rejected": rejected, "sample_weight": 1.0, "source": name})
# Short ones first: they make the cheapest trial.
pairs.sort(key=lambda pair: sum(len(pair[part]) for part in ("input", "chosen", "rejected")))
output.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
print(len(pairs), "pairs")
