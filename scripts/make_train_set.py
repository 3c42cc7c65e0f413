"""Writes a set of the size of GuardReasonerTrain, with made-up words: 127,544 rows, about 370 MB.

    python3 scripts/make_train_set.py train.json [ROWS]

For measuring only. The same command gives the same bytes. One row in 500 has no output, one in 300
repeats an earlier input, and one in 700 speaks of the ground truth, so that checks find something.
"""

import itertools
import json
import pathlib
import random
import sys

INSTRUCTION = pathlib.Path(__file__).parent.parent / "guard-core/assets/guardreasoner_instruction.txt"


def main():
    path, rows = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 127_544
    draw = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))

    def text(length):
        return " ".join(draw.choices(words, cum_weights=weights, k=length))

    instruction = INSTRUCTION.read_text()
    inputs = []
    with open(path, "w") as out:
        out.write("[\n")
        for row in range(rows):
            has_response = row % 2 == 0
            response = text(draw.randint(40, 160)) if has_response else "None"
            prompt = f"Human user:\n{text(draw.randint(10, 200))}\n\nAI assistant:\n{response}\n\n"
            if row % 300 == 299:
                prompt = inputs[draw.randrange(len(inputs))]
                has_response = not prompt.endswith("\nNone\n\n")
            if row % 50 == 0:
                inputs.append(prompt)
            steps = []
            for task in (1, 2, 3):
                steps.append(f"# Task {task}\n")
                for step in range(1, draw.randint(2, 4)):
                    steps.append(f"## Reasoning Step {step}\n{text(draw.randint(12, 36))}.\n")
            leak = "The ground truth is\n" if row % 700 == 0 else ""
            answers = [
                draw.choice(["harmful", "unharmful"]),
                draw.choice(["refusal", "compliance"]) if has_response else "None",
                draw.choice(["harmful", "unharmful"]) if has_response else "None",
            ]
            output = "\n".join(steps) + f"\n---\n{leak}\nAnswers: \nRequest: {answers[0]}\n"
            output += f"Completion: {answers[1]}\nResponse: {answers[2]}"
            if row % 500 == 0:
                output = ""
            item = {"instruction": instruction, "input": prompt, "output": output}
            out.write(("" if row == 0 else ",\n") + json.dumps(item, ensure_ascii=False))
        out.write("\n]\n")


main()
