"""Writes guard-data/testdata/mining.json: what the released rule makes of random generations.

    python3 scripts/mining_goldens.py

A port, in our own words, of what the reference's hard_sample_mining.py does once its file names are
right: fields by the first match in the whole text, texts without all three fields left out, the
first task with right and wrong texts makes the pair of the longest of each, weights by min-max over
the file. A set holds no text but its length and its words; `text` below says how they make one.
"""

import json
import pathlib
import random
import re

OUT = pathlib.Path(__file__).parent.parent / "guard-data/testdata/mining.json"
SETS, SAMPLES = 40, 30
HARM, COMPLETION = ["harmful", "unharmful"], ["refusal", "compliance"]
FIELDS = ["Request", "Completion", "Response"]


def text(spec):
    length, *words = spec
    lines = [f"{field}: {word}" for field, word in zip(FIELDS, words) if word is not None]
    return "ä" * length + "\n\nAnswers: \n" + "\n".join(lines)


def fields(output):
    found = [re.search(rf"{field}:\s*(\w+)", output) for field in FIELDS]
    return [match.group(1) for match in found] if all(found) else None


def released_pair(sample):
    truth = dict(zip(FIELDS, fields(text(sample["label"]))))
    parsed = [(place, fields(text(spec))) for place, spec in enumerate(sample["generations"])]
    parsed = [(place, dict(zip(FIELDS, words))) for place, words in parsed if words]
    for task in ["Request", "Response", "Completion"]:
        if task != "Request" and (truth[task] == "None" or not sample["has_response"]):
            continue
        right = [place for place, words in parsed if words[task] == truth[task]]
        wrong = [place for place, words in parsed if words[task] != truth[task]]
        if right and wrong:
            length = lambda place: len(text(sample["generations"][place]))
            return {
                "task": task.lower(),
                "chosen": max(right, key=length),
                "rejected": max(wrong, key=length),
                "difference": len(wrong) - len(right),
            }
    return None


def draw_sample(draw):
    has_response = draw.random() < 0.6
    none = not has_response and draw.random() < 0.7
    label = [0, draw.choice(HARM), "None" if none else draw.choice(COMPLETION)]
    label.append("None" if none else draw.choice(HARM))
    skill = draw.choice([0.5, 0.8, 0.95])

    def word(truth, words):
        if draw.random() < 0.04:
            return None
        if draw.random() < skill:
            return truth
        return draw.choice([*words, "None", "unclear"])

    generations = []
    for _ in range(draw.choice([2, 4, 4, 4, 8])):
        words = [word(label[1], HARM), word(label[2], COMPLETION), word(label[3], HARM)]
        generations.append([draw.randint(0, 12), *words])
    return {"has_response": has_response, "label": label, "generations": generations}


def main():
    draw = random.Random(20501)
    sets = []
    for number in range(SETS):
        # Some sets are too small to have weights that differ.
        count = 1 if number % 10 == 9 else SAMPLES
        samples = [draw_sample(draw) for _ in range(count)]
        pairs = [released_pair(sample) for sample in samples]
        differences = [pair["difference"] for pair in pairs if pair]
        for sample, pair in zip(samples, pairs):
            if pair:
                least, most = min(differences), max(differences)
                # The released code divides by zero here: 1 is our definition.
                weight = 1.0
                if most > least:
                    weight = 1 + (pair.pop("difference") - least) * 0.4 / (most - least) - 0.2
                pair.pop("difference", None)
                pair["weight"] = weight
            sample["pair"] = pair
        sets.append(samples)
    lines = ",\n".join("[" + ",\n".join(json.dumps(s, separators=(",", ":")) for s in one) + "]" for one in sets)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("[" + lines + "]\n")
    total = sum(len(one) for one in sets)
    print(total, "samples,", sum(bool(s["pair"]) for one in sets for s in one), "pairs")


main()
