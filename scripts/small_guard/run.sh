#!/usr/bin/env bash
# Makes a small guard, from configs and seeds that lie beside this script: one command a stage.
#
#   scripts/small_guard/run.sh STAGE      data, narrow, distil, answers, traces, r_sft, whole, mine, hs_dpo, pack; or all
#
# What it needs is named by the environment:
#   DATA      research data that is not part of the project: train/, benchmark/ and predictions/ (data.py says which files)
#   WORDNET   WordNet 3.0's folder of data.noun and the like (Debian: wordnet-base)
#   SMOLLM2   SmolLM2-135M-Instruct: a transformers folder or .gguf file
#   OUT       where everything goes; default target/small-guard
set -euo pipefail
stages="data narrow distil answers traces r_sft whole mine hs_dpo pack"
[[ " $stages all " == *" ${1:-none} "* ]] || { echo "usage: $0 STAGE, one of: $stages; or all" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
DATA=$(realpath "${DATA:?names the folder of research data}")
WORDNET=$(realpath "${WORDNET:?names the folder of WordNet}")
SMOLLM2=$(realpath "${SMOLLM2:?names the larger model}")
out=$(realpath -m "${OUT:-$here/../../target/small-guard}")
mkdir -p "$out"
cd "$here/../.."

example() { cargo run --quiet --release --example "$@"; }

data() {
    python3 "$here/data.py" "$DATA" "$out/data"
    python3 "$here/texts.py" "$out/data" "$WORDNET" "$out/data/read.jsonl"
}

# Random blocks under the principal components of the larger model's embedding; the last block looks at all tokens alike.
narrow() {
    example narrow_model -- --model "$SMOLLM2" --hidden-size 192 --layers 7 --output "$out/random"
    example prune_model -- --model "$out/random" --uniform-attention 6 --output "$out/narrow"
}

distil() {
    example distil_hidden -- --model "$out/narrow" --blocks 6 --teacher "$SMOLLM2" --teacher-blocks 6 \
        --texts "$out/data/read.jsonl" --config "$here/distil.toml" --output "$out/distilled"
    echo '{"style": "compact", "knows_modes": true}' >"$out/distilled/guard.json"
}

# R-SFT begins with answers alone: what the blocks see of a text bends towards harm, and towards nothing else.
answers() {
    grep -v '"output": "[^"]*Completion' "$out/data/labels.jsonl" >"$out/data/answers.jsonl"
    example train_rsft -- --model "$out/distilled" --data "$out/data/answers.jsonl" \
        --config "$here/answers.toml" --output "$out/answers"
}

# Every row twice: with all of its reasoning, and with its answers alone.
traces() {
    example synthesize -- --input "$out/data/prompts.jsonl" --teacher-url rules --style compact \
        --mode full --mode label-only --output "$out/data/traces.jsonl"
}

r_sft() {
    example train_rsft -- --model "$out/answers/model" --data "$out/data/traces.jsonl" \
        --config "$here/r_sft.toml" --output "$out/r_sft"
}


whole() {
    example train_rsft -- --model "$out/r_sft/model" --data "$out/data/traces.jsonl" \
        --config "$here/whole.toml" --output "$out/whole"
}

# Pairs of a right and a wrong attempt. Answers alone leave nothing to prefer.
mine() {
    grep '^{"instruction":"Judge this exchange. Reason first' "$out/data/traces.jsonl" >"$out/data/reasoned.jsonl"
    example mine_hard_samples -- --model "$out/whole/model" --data "$out/data/reasoned.jsonl" --limit 400 \
        --rows 64 --max-tokens 200 --unparsed-is-wrong --output "$out/pairs.jsonl"
}

hs_dpo() {
    example train_hsdpo -- --model "$out/whole/model" --data "$out/pairs.jsonl" \
        --config "$here/hs_dpo.toml" --output "$out/hs_dpo"
}

# Calibrated on requests that were kept from training, then packed into one file of at most 9 MiB.
pack() {
    rm -rf "$out/guard"
    cp -r "$out/hs_dpo/model" "$out/guard"
    grep -v '"response"' "$out/data/held_out.jsonl" >"$out/data/held_prompts.jsonl"
    for mode in verdict reason; do
        example calibrate -- --model "$out/guard" --data "$out/data/held_prompts.jsonl" --mode "$mode" --max-tokens 256
    done
    example export_gguf -- --model "$out/guard" --type q4_1 --embedding-type q4_0 --output "$out/small-guard.gguf"
}

all() {
    for stage in $stages; do "$stage"; done
}

"$1"
