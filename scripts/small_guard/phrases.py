"""Chooses outputs that between them say what a guard usually says: guesses at its texts are made of them.

python3 scripts/small_guard/phrases.py TRACES.jsonl OUTPUT.json
"""
import collections
import json
import sys

SHARE = 0.98  # of all pairs of neighbouring lines


def pairs(output):
    lines = output.split("\n")
    return collections.Counter(zip(lines, lines[1:]))


def main(traces, target):
    with open(traces) as lines:
        outputs = collections.Counter(json.loads(line)["output"] for line in lines)
    weights = collections.Counter()
    for output, times in outputs.items():
        for pair, count in pairs(output).items():
            weights[pair] += times * count
    # The most usual output comes first; each later one adds the most of what is not there yet.
    chosen, open_weight = [], sum(weights.values())
    enough = (1 - SHARE) * open_weight
    while open_weight > enough:
        gain = lambda output: (sum(weights[pair] for pair in pairs(output)), outputs[output], output)
        best = max(outputs, key=gain)
        for pair in pairs(best):
            open_weight -= weights.pop(pair, 0)
        chosen.append(best)
    with open(target, "w") as file:
        json.dump(chosen, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
