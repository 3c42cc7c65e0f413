#!/usr/bin/env bash
# Makes a small guard, from configs and seeds that lie beside this script: one command a stage.
#
#   scripts/small_guard/run.sh STAGE      data, narrow, distil, answers, traces, r_sft, whole, sibling, mine, hs_dpo, pack;
#                                         all of these; or lora, the larger alternative
#
# What it needs is named by the environment:
#   DATA      research data that is not part of the project: train/, benchmark/ and predictions/ (data.py says which files)
#   WORDNET   WordNet 3.0's folder of data.noun and the like (Debian: wordnet-base)
#   SMOLLM2   SmolLM2-135M-Instruct: a transformers folder or .gguf file
#   OUT       where everything goes; default target/small-guard
set -euo pipefail
stages="data narrow distil answers traces r_sft whole sibling mine hs_dpo pack"
[[ " $stages all lora " == *" ${1:-none} "* ]] || { echo "usage: $0 STAGE, one of: $stages; all of them; or lora" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
DATA=$(realpath "${DATA:?names the folder of research data}")
WORDNET=$(realpath "${WORDNET:?names the folder of WordNet}")
SMOLLM2=$(realpath "${SMOLLM2:?names the larger model}")
out=$(realpath -m "${OUT:-$here/../../target/small-guard}")
mkdir -p "$out"
cd "$here/../.."

example() { cargo run --quiet --release --example "$@"; }

data() {
    python3 "$here/data.py" "$DATA" "$WORDNET" "$out/data"
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

# Short, and with all weights: reasoning learns to say what the blocks have seen.
whole() {
    example train_rsft -- --model "$out/r_sft/model" --data "$out/data/traces.jsonl" \
        --config "$here/whole.toml" --output "$out/whole"
}

# Another one of the kind, without one of the sets: what it finds hard is learnt from as well.
sibling() {
    grep -v '"source":"BeaverTailsTrainR"' "$out/data/traces.jsonl" >"$out/data/sibling.jsonl"
    example train_rsft -- --model "$out/r_sft/model" --data "$out/data/sibling.jsonl" \
        --config "$here/sibling.toml" --output "$out/sibling"
}

# Pairs of a right and a wrong attempt at rows with reasoning: answers alone leave nothing to prefer.
mine() {
    reasoned() { grep '^{"instruction":"Judge this exchange. Reason first' "$out/data/traces.jsonl"; }
    attempt() {
        example mine_hard_samples -- --model "$out/$1/model" --data "$out/data/$2.jsonl" \
            --rows 64 --max-tokens 200 --unparsed-is-wrong --output "$out/$2.pairs.jsonl" "${@:3}"
    }
    reasoned | sed -n 1,400p >"$out/data/hard_sibling.jsonl"
    reasoned | sed -n 401,1000p >"$out/data/hard.jsonl"
    attempt sibling hard_sibling
    attempt whole hard --ensemble "BeaverTailsTrainR=$out/hard_sibling.pairs.jsonl"
}

hs_dpo() {
    example train_hsdpo -- --model "$out/whole/model" --data "$out/hard.pairs.jsonl" \
        --config "$here/hs_dpo.toml" --output "$out/hs_dpo"
}

# The rarest tokens go, calibrated on requests that were kept from training, packed into one file of at most
# 9 MiB. The embedding is the head, too: in 4 bits, the guard would no longer write as it was taught to.
pack() {
    example prune_model -- --model "$out/hs_dpo/model" --vocabulary 30000 --texts "$out/data/read.jsonl" \
        --texts "$out/data/traces.jsonl" --output "$out/guard"
    grep -v '"response"' "$out/data/held_out.jsonl" >"$out/data/held_prompts.jsonl"
    for mode in verdict reason; do
        example calibrate -- --model "$out/guard" --data "$out/data/held_prompts.jsonl" --mode "$mode" --max-tokens 256
    done
    python3 "$here/phrases.py" "$out/data/traces.jsonl" "$out/small-guard-phrases.json"
    example export_gguf -- --model "$out/guard" --type q4_1 --embedding-type q8_0 --output "$out/small-guard.gguf"
}

# Answers at once by SmolLM2 itself, with adapters, from as many rows as the guide reports on.
lora() {
    example train_rsft -- --model "$SMOLLM2" --data "$out/data/labels.jsonl" \
        --config "$here/lora.toml" --limit 2400 --output "$out/lora"
    echo '{"style": "compact", "knows_modes": true, "scores": {}}' >"$out/lora/model/guard.json"
}

all() {
    for stage in $stages; do "$stage"; done
}

"$1"
