"""Reads, checks and counts a training set with pandas or datasets, to be timed beside `check_data`.

    python3 scripts/bench_data.py pandas train.json
    python3 scripts/bench_data.py datasets train.json
    python3 scripts/bench_data.py pandas train.json --phrases

The same counts as `check_data --phrases 0`, but for what it does beyond them: no loops, no check of
hidden characters or of consistency. With --phrases also phrases of one to three words by label, as
`check_data` does unless told otherwise. Prints the counts, seconds and peak memory.
"""

import collections
import hashlib
import re
import resource
import sys
import time

PHRASES = "--phrases" in sys.argv
WORD = re.compile(r"[^\W_]+")
STEP = re.compile(r"^## Reasoning Step.*\n?", re.M)
ANSWER = {
    task: re.compile(rf"^{task}:\s*(\w+)", re.M) for task in ("Request", "Completion", "Response")
}
HEADER, MIDDLE = "Human user:\n", "\n\nAI assistant:\n"


def row_facts(input_text, output):
    request, _, response = input_text.removeprefix(HEADER).partition(MIDDLE)
    has_response = response != "None\n\n"
    labels = []
    for task, pattern in ANSWER.items():
        found = pattern.findall(output)
        labels.append(found[-1].lower() if found else "")
    reasoning = output[: output.rfind("Answers:")] if "Answers:" in output else output
    parts = STEP.split(reasoning)[1:]
    step_chars = sum(len(part.split("\n# ")[0].split("\n---")[0].strip()) for part in parts)
    return {
        "text": hashlib.sha256(input_text.encode()).digest()[:16],
        "label": labels[0],
        "steps": len(parts),
        "step_chars": step_chars,
        "empty": not output.strip(),
        "missing": bool(output.strip())
        and (labels[0] == "" or (has_response and "" in labels[1:])),
        "leak": "ground truth" in output.lower(),
        "no_text": not request.strip(),
        "request": request if PHRASES else "",
    }


class Counts:
    def __init__(self):
        self.sums = collections.Counter()
        self.texts = collections.defaultdict(lambda: [0, set()])
        self.phrases = {"harmful": collections.Counter(), "unharmful": collections.Counter()}

    def add(self, facts):
        self.sums["rows"] += 1
        for key in ("steps", "step_chars", "empty", "missing", "leak", "no_text"):
            self.sums[key] += facts[key]
        group = self.texts[facts["text"]]
        group[0] += 1
        group[1].add(facts["label"])
        if PHRASES and facts["label"] in self.phrases:
            words = WORD.findall(facts["request"].lower())
            phrases = {tuple(words[at : at + n]) for n in (1, 2, 3) for at in range(len(words))}
            self.phrases[facts["label"]].update(phrases)

    def show(self):
        self.sums["duplicates"] = sum(count - 1 for count, _ in self.texts.values())
        self.sums["conflicts"] = sum(
            count for count, labels in self.texts.values() if {"harmful", "unharmful"} <= labels
        )
        harmful, unharmful = self.phrases["harmful"], self.phrases["unharmful"]
        for phrase in harmful.keys() | unharmful.keys():
            counts = harmful[phrase], unharmful[phrase]
            rare = 25 <= sum(counts) <= self.sums["rows"] // 100
            self.sums["telling"] += rare and max(counts) >= 0.98 * sum(counts)
        print(dict(self.sums))


def with_pandas(path, counts):
    import pandas

    frame = pandas.read_json(path)
    for input_text, output in zip(frame["input"], frame["output"]):
        counts.add(row_facts(input_text, output))


def with_datasets(path, counts):
    import tempfile

    import datasets

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=path, cache_dir=cache, split="train")
        rows = rows.map(
            lambda row: row_facts(row["input"], row["output"]),
            remove_columns=rows.column_names,
            num_proc=2,
        )
        for facts in rows:
            counts.add(facts)


def main():
    tool, path = sys.argv[1:3]
    start = time.perf_counter()
    counts = Counts()
    {"pandas": with_pandas, "datasets": with_datasets}[tool](path, counts)
    counts.show()
    seconds = time.perf_counter() - start
    peak = max(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    )
    print(f"{tool}: {seconds:.2f} s, {peak / 1024:.0f} MB")


main()
