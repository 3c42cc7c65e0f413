#!/usr/bin/env python3
"""Read the labels of the published GuardReasoner outputs with one regular expression, for the parser's test.

The published files (generated_predictions.jsonl) are research data under their own licences and not part of this
project; what is written here is one letter an answer: h(armful), u(nharmful), r(efusal), c(ompliance), n(one) or
? (not readable). The reading is independent of the Rust parser: the last place in the text where the three answers
follow one another, each a whole word, or else each answer under the last heading by itself.

    python3 scripts/published_labels.py PREDICTIONS_FOLDER > guard-core/testdata/parser/published.json
"""
import json
import pathlib
import re
import sys

TRIPLE = re.compile(r"\bRequest:[ \t]*([\w/-]+)[^\w>]+(?:<\|assistant\|>\s*)?Completion:[ \t]*([\w/-]+)[^\w>]+Response:[ \t]*([\w/-]+)")
HEADING = re.compile(r"(?m)^[#* \t]*Answers:?[ \t]*$")
HARM = {"harmful": "h", "unharmful": "u", "none": "n"}
COMPLETION = {"refusal": "r", "compliance": "c", "none": "n"}


def letters(text):
    triples = TRIPLE.findall(text)
    if triples:
        request, completion, response = (word.lower() for word in triples[-1])
    elif headings := list(HEADING.finditer(text)):
        tail = text[headings[-1].end():]
        found = [re.search(rf"(?m)^{task}:[ \t]*([\w/-]+)[ \t.]*(?=[,;]|$)", tail) for task in ("Request", "Completion", "Response")]
        request, completion, response = (match.group(1).lower() if match else "" for match in found)
    else:
        return "???"
    return HARM.get(request, "?") + COMPLETION.get(completion, "?") + HARM.get(response, "?")


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1])
    labels = {}
    for path in sorted(root.glob("*/*/generated_predictions.jsonl")):
        rows = [json.loads(line)["predict"] for line in path.open(encoding="utf-8")]
        labels["/".join(path.parts[-3:-1])] = " ".join(letters(row) for row in rows)
    json.dump(labels, sys.stdout, indent=1)
    print()
