#!/usr/bin/env python3
"""Write the rows that a small guard is trained on, from research data that is not part of the project.

    python3 scripts/small_guard/data.py DATA WORDNET OUTPUT [--sentences 600] [--hold-out 0.1] [--seed 0]

DATA has `train/prompts.jsonl` (prompt, label, source: labelled requests of GuardReasonerTrain), `benchmark/` (the
reference's files of HarmBench and XSTest responses) and `predictions/8B/` (the published outputs for these).
WORDNET is the folder with `data.noun` and so on of WordNet 3.0: its example sentences are everyday requests, taken to
be unharmful. Without them a model that has seen nothing but requests to judge calls half of all plain text harmful.
OUTPUT gets `labels.jsonl` (instruction, input, output: answers at once), `held_out.jsonl` (labelled samples that are
kept from training, for calibration and for choosing between runs) and `prompts.jsonl` (samples, for a teacher).
"""
import argparse
import json
import pathlib
import random
import re

INSTRUCTION = "Judge this exchange.\n"
HEADER, RESPONSE = "Human user:\n", "\n\nAI assistant:\n"
BLOCK = re.compile(r"Request:\s*(\w+)\s+Completion:\s*(\w+)\s+Response:\s*(\w+)")

arguments = argparse.ArgumentParser()
arguments.add_argument("data", type=pathlib.Path)
arguments.add_argument("wordnet", type=pathlib.Path)
arguments.add_argument("output", type=pathlib.Path)
arguments.add_argument("--sentences", type=int, default=600)
arguments.add_argument("--hold-out", type=float, default=0.1)
arguments.add_argument("--seed", type=int, default=0)
arguments = arguments.parse_args()


def normalised(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


def json_lines(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def benchmark(name):
    return json.loads((arguments.data / "benchmark" / name).read_text(encoding="utf-8"))


def parts(text):
    request, response = text.removeprefix(HEADER).removesuffix("\n\n").split(RESPONSE, 1)
    return request, response


def requests():
    for place, row in enumerate(json_lines(arguments.data / "train" / "prompts.jsonl")):
        yield {"id": f"prompt-{place}", "source": row["source"], "prompt": row["prompt"], "labels": {"request": row["label"]}}


def sentences():
    """Example sentences of WordNet with five words or more."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        with (arguments.wordnet / f"data.{part}").open(encoding="latin-1") as file:
            for line in file:
                if not line.startswith("  "):  # the licence
                    quoted = re.findall(r'"([^"]+)"', line.partition("|")[2])
                    found += [text for text in quoted if len(text.split()) >= 5]
    chosen = random.Random(arguments.seed).sample(found, min(arguments.sentences, len(found)))
    for place, text in enumerate(chosen):
        yield {"id": f"sentence-{place}", "source": "WordNet", "prompt": text, "labels": {"request": "unharmful"}}


def exchanges():
    """The response sets, with the benchmark's label for one task and the published 8B's answers for the others.
    Requests that are also rows of the benchmark of HarmBench's prompts are left out."""
    judged = {normalised(parts(row["input"])[0]) for row in benchmark("0_3_harmbench_prompt.json")}
    sets = [("0_5_harmbench_response.json", "HarmBenchResponse", "response"),
            ("0_7_xstest_response_refusal.json", "XSTestResponseRefusal", "completion"),
            ("0_6_xstest_response_harmful.json", "XSTestReponseHarmful", "response")]
    found = {}
    for file, name, task in sets:
        outputs = json_lines(arguments.data / "predictions" / "8B" / name / "generated_predictions.jsonl")
        for place, (row, output) in enumerate(zip(benchmark(file), outputs)):
            request, response = parts(row["input"])
            answers = BLOCK.findall(output["predict"])
            if normalised(request) in judged or not answers:
                continue
            labels = dict(zip(("request", "completion", "response"), answers[-1]))
            sample = found.setdefault(row["input"], {"id": f"{name}-{place}", "source": name, "prompt": request,
                                                     "response": response, "labels": labels})
            sample["labels"][task] = row["output"]
    known = {"request": {"harmful", "unharmful"}, "completion": {"refusal", "compliance"}, "response": {"harmful", "unharmful"}}
    return [sample for sample in found.values() if all(sample["labels"][task] in words for task, words in known.items())]


def row(sample):
    """Answers at once; without a response, the block ends behind its first line."""
    labels = sample["labels"]
    lines = [f"{task.capitalize()}: {labels[task]}" for task in ("request", "completion", "response") if task in labels]
    text = f"{HEADER}{sample['prompt']}{RESPONSE}{sample.get('response', 'None')}\n\n"
    return {"instruction": INSTRUCTION, "input": text, "output": "Answers: \n" + "\n".join(lines)}


def write(name, rows):
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / name).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows)} rows in {arguments.output / name}")


samples = list(requests()) + exchanges()
random.Random(arguments.seed).shuffle(samples)
count = round(arguments.hold_out * len(samples))
held_out, kept = samples[:count], samples[count:] + list(sentences())
random.Random(arguments.seed).shuffle(kept)
write("held_out.jsonl", held_out)
write("prompts.jsonl", kept)
write("labels.jsonl", [row(sample) for sample in kept])
