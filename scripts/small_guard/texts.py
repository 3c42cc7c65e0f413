#!/usr/bin/env python3
"""Write the texts that a small guard learns to read on, by hidden states of a larger model: no labels are needed.

    python3 scripts/small_guard/texts.py ROWS WORDNET OUTPUT [--glosses 60000] [--seed 0]

ROWS is the folder that data.py wrote: its requests, and its responses in pieces. WORDNET is the folder with
`data.noun` and so on of WordNet 3.0 (Princeton, under a licence of its own that allows any use), whose glosses have
nearly every English word in a sentence that says what it means. OUTPUT gets one JSON string a line.
"""
import argparse
import json
import pathlib
import random

PIECE, MOST = 90, 360  # words

arguments = argparse.ArgumentParser()
arguments.add_argument("rows", type=pathlib.Path)
arguments.add_argument("wordnet", type=pathlib.Path)
arguments.add_argument("output", type=pathlib.Path)
arguments.add_argument("--glosses", type=int, default=60_000)
arguments.add_argument("--seed", type=int, default=0)
arguments = arguments.parse_args()
rng = random.Random(arguments.seed)


def glosses():
    """The words of each sense, and what it means."""
    for part in ("noun", "verb", "adj", "adv"):
        with (arguments.wordnet / f"data.{part}").open(encoding="latin-1") as file:
            for line in file:
                if line.startswith("  "):
                    continue  # the licence
                fields, _, gloss = line.partition("|")
                fields = fields.split()
                words = [fields[4 + 2 * place].replace("_", " ").split("(")[0] for place in range(int(fields[3], 16))]
                yield words, gloss.strip()


def entry(words, gloss):
    kind = rng.random()
    return f"{rng.choice(words)}: {gloss}." if kind < 0.6 else f"{', '.join(words)}." if kind < 0.8 else gloss


with (arguments.rows / "prompts.jsonl").open(encoding="utf-8") as file:
    samples = [json.loads(line) for line in file]
texts = [sample["prompt"] for sample in samples if "response" not in sample]
for sample in samples:
    words = sample.get("response", "").split(" ")[:MOST]
    texts += [" ".join(words[start : start + PIECE]) for start in range(0, len(words), PIECE)]
senses = list(glosses())
rng.shuffle(senses)
senses = senses[: arguments.glosses]
texts += [" ".join(entry(*sense) for sense in senses[start : start + 4]) for start in range(0, len(senses), 4)]
texts = [text for text in texts if text.strip()]
rng.shuffle(texts)
with arguments.output.open("w", encoding="utf-8") as file:
    file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
print(f"{len(texts)} texts of {sum(len(text.split()) for text in texts)} words in {arguments.output}")
