#!/usr/bin/env python3
"""Make guard-data/testdata/training/: small files in the formats of the four seed sets, and what is to be read from them.

The files have the columns, types and compression of the published ones; the texts are invented. `expected.json` holds
the samples of each set, worked out here by the rules of the reference's script as pandas reads the files: Aegis by
`Counter.most_common`, ToxicChat by human_annotation, BeaverTails by is_safe, WildGuard as it is. A label that is not
there is null, where the script writes the text None. GuardReasonerTrain is written three times, as a JSON array, as JSON
lines under the name .json, and as Parquet.

    pip install pandas==3.1.1 pyarrow==26.0.1
    python3 scripts/data_fixtures.py

The folder is removed and made anew; nothing is random.
"""
import csv
import gzip
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

OUTPUT = Path(__file__).resolve().parent.parent / "guard-data" / "testdata" / "training"
INSTRUCTION = Path(__file__).resolve().parent.parent / "guard-core/assets/guardreasoner_instruction.txt"

WILD_GUARD = [
    # prompt, adversarial, response, prompt_harm_label, response_refusal_label, response_harm_label, subcategory
    ("How is bread\nbaked?", False, "With an oven, \"hot\".", "unharmful", "compliance", "unharmful", "benign"),
    ("How do I break a window?", False, "I can't help.", "harmful", "refusal", "unharmful", "others"),
    ("Pretend to be a robber 🦹", True, None, "harmful", None, None, "others"),
    ("None", False, None, "unharmful", None, None, "benign"),
    ("What is in the news?", False, "None", "unharmful", None, "unharmful", "benign"),
    ("", True, "", None, "compliance", None, "others"),
]

AEGIS = [
    # text, text_type, labels_0..4
    ("Hi there", "user_message", ["Safe", "Safe", "Needs Caution", None, None]),
    ("I hate you", "user_message", ["Safe", "Violence", "Hate/Identity Hate", None, None]),
    ("I hate them", "user_message", ["Violence", "Safe", "Hate/Identity Hate", None, None]),
    ("A reply of a model", "llm_response", ["Needs Caution", "Needs Caution", "Safe", "Safe", "Safe"]),
    ("user: hi\nassistant: ho", "respective", ["Criminal Planning/Confessions", "Safe", "Safe", None, None]),
    ("One vote", "user_message", [" Safe ", None, None, None, None]),
    ("Empty votes", "user_message", ["", "Violence, Safe", None, None, None]),
]

BEAVER_TAILS = [
    ("What is your name?", "I am a model.", {"violence": False, "privacy": False}, True),
    ("Where does she live?", "At the corner, 3rd \u201cdoor\u201d.", {"violence": False, "privacy": True}, False),
    ("Where does she live?", "I do not know.\r\n", {"violence": False, "privacy": False}, True),
]

TOXIC_CHAT = [
    # user_input, model_output, human_annotation, toxicity, jailbreaking
    ("Write a poem, please", "Roses", True, 0, 0),
    ("Say something rude,\nnow \"please\"", "No", True, 1, 1),
    ("Not looked at by people", "Fine", False, 0, 0),
    ("'quoted' ünï", "", True, 0, 1),
]


def reasoned():
    def row(request, response, output):
        return {
            "instruction": INSTRUCTION.read_text(),
            "input": f"Human user:\n{request}\n\nAI assistant:\n{response}\n\n",
            "output": output,
        }

    steps = "# Task 1\n\n## Reasoning Step 1\nIt asks.\n\n# Task 2\n\n## Reasoning Step 1\nIt tells.\n\n# Task 3\n\n"
    steps += "## Reasoning Step 1\nIt is fine.\n\n---\n\n"
    return [
        row("How is bread baked?", "With an oven.", f"{steps}Answers: \nRequest: unharmful\nCompletion: compliance\nResponse: unharmful"),
        row("How do I pick a lock?", "None", f"{steps}Answers: \nRequest: harmful\nCompletion: None\nResponse: None"),
        row("Failed call", "None", ""),
    ]


def expected(prompt, response, request=None, completion=None, harm=None):
    return {"prompt": prompt, "response": response, "labels": [request, completion, harm]}


def main():
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    names = "prompt adversarial response prompt_harm_label response_refusal_label response_harm_label subcategory"
    wild = [dict(zip(names.split(), row)) for row in WILD_GUARD]
    pq.write_table(pa.Table.from_pylist(wild), OUTPUT / "wildguard_train.parquet", compression="snappy")

    aegis = []
    for number, (text, kind, labels) in enumerate(AEGIS):
        row = {"num_annotations": sum(label is not None for label in labels), "id": f"a{number}", "text": text}
        row |= {f"labels_{place}": label for place, label in enumerate(labels)}
        aegis.append(row | {"text_type": kind})
    columns = [(name, pa.int64() if name == "num_annotations" else pa.string()) for name in aegis[0]]
    pq.write_table(pa.Table.from_pylist(aegis, pa.schema(columns)), OUTPUT / "aegis_train.parquet", compression="zstd")

    lines = [
        json.dumps({"prompt": prompt, "response": response, "category": category, "is_safe": safe}, ensure_ascii=False)
        for prompt, response, category, safe in BEAVER_TAILS
    ]
    with gzip.GzipFile(OUTPUT / "beavertails_train.jsonl.gz", "wb", mtime=0) as out:
        out.write(("\n".join(lines) + "\n").encode())

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("conv_id user_input model_output human_annotation toxicity jailbreaking openai_moderation".split())
    for number, row in enumerate(TOXIC_CHAT):
        writer.writerow([f"c{number}", *row, "[]"])
    (OUTPUT / "toxic-chat_annotation_train.csv").write_text(text.getvalue(), newline="")

    rows = reasoned()
    (OUTPUT / "AegisTrain-R.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    (OUTPUT / "ToxicChatTrain-R.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), OUTPUT / "WildGuardTrain-R.parquet", compression="snappy")

    samples = {}
    frame = pd.read_parquet(OUTPUT / "wildguard_train.parquet")
    frame = frame.astype(object).where(frame.notna(), None)
    samples["WildGuardTrain"] = [
        expected(row.prompt, row.response, row.prompt_harm_label, row.response_refusal_label, row.response_harm_label)
        for row in frame.itertuples()
    ]
    samples["AegisTrain"] = []
    for row in pd.read_parquet(OUTPUT / "aegis_train.parquet").itertuples():
        votes = [getattr(row, f"labels_{place}") for place in range(5)]
        votes = [vote.strip() for vote in votes if isinstance(vote, str) and vote.strip()]
        most = Counter(votes).most_common(1)[0][0]
        samples["AegisTrain"].append(expected(row.text, None, "unharmful" if most == "Safe" else "harmful"))
    frame = pd.read_json(OUTPUT / "beavertails_train.jsonl.gz", lines=True)
    samples["BeaverTailsTrain"] = [
        expected(row.prompt, row.response, harm="unharmful" if row.is_safe else "harmful") for row in frame.itertuples()
    ]
    frame = pd.read_csv(OUTPUT / "toxic-chat_annotation_train.csv", keep_default_na=False)
    samples["ToxicChatTrain"] = [
        expected(row.user_input, None, "harmful" if row.toxicity == 1 else "unharmful")
        for row in frame.itertuples()
        if row.human_annotation
    ]
    samples["GuardReasonerTrain"] = [
        expected("How is bread baked?", "With an oven.", "unharmful", "compliance", "unharmful"),
        expected("How do I pick a lock?", None, "harmful"),
        expected("Failed call", None),
    ]
    (OUTPUT / "expected.json").write_text(json.dumps(samples, ensure_ascii=False, indent=1) + "\n")
    print({name: len(rows) for name, rows in samples.items()})


main()
