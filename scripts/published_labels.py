#!/usr/bin/env python3
"""Read the labels of the published GuardReasoner outputs with one regular expression, for the parser's test.

The published files (generated_predictions.jsonl) are research data under their own licences and not part of this
project; what is written here is one letter an answer: h(armful), u(nharmful), r(efusal), c(ompliance), n(one) or
? (not readable). The reading is independent of the Rust parser: the last place in the text where the three answers
follow one another, each a whole word.

    python3 scripts/published_labels.py PREDICTIONS_FOLDER > guard-core/testdata/parser/published.json
"""
import json
import pathlib
import re
import sys

TRIPLE = re.compile(r"\bRequest:[ \t]*([\w/-]+)[^\w>]+(?:<\|assistant\|>\s*)?Completion:[ \t]*([\w/-]+)[^\w>]+Response:[ \t]*([\w/-]+)")
PARTIAL = re.compile(r"Answers:\s*Completion:[ \t]*(\w+)\s+Response:[ \t]*(\w+)\s*$")
HARM = {"harmful": "h", "unharmful": "u", "none": "n"}
COMPLETION = {"refusal": "r", "compliance": "c", "none": "n"}


def letters(text):
    triples = TRIPLE.findall(text)
    if triples:
        request, completion, response = (word.lower() for word in triples[-1])
    elif partial := PARTIAL.search(text):
        request, (completion, response) = "", (word.lower() for word in partial.groups())
    else:
        return "???"
    return HARM.get(request, "?") + COMPLETION.get(completion, "?") + HARM.get(response, "?")


root = pathlib.Path(sys.argv[1])
labels = {}
for path in sorted(root.glob("*/*/generated_predictions.jsonl")):
    rows = [json.loads(line)["predict"] for line in path.open(encoding="utf-8")]
    labels["/".join(path.parts[-3:-1])] = " ".join(letters(row) for row in rows)
json.dump(labels, sys.stdout, indent=1)
print()
