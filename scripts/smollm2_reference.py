#!/usr/bin/env python3
"""SmolLM2-135M in transformers, for guard-infer's test `smollm2`; scripts/smollm2.sh runs it all.

    smollm2_reference.py goldens MODEL.gguf PROMPTS_FOLDER OUT    logits and greedy text of 20 guard prompts
    smollm2_reference.py compare SAVED REFERENCE                  two folders hold the same tensors and load

PROMPTS_FOLDER holds the reference's benchmark files (JSON arrays of instruction and input).
Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0.
"""
import json
import pathlib
import sys

import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

PROMPTS = 20
GREEDY_TOKENS = 64
MAX_PROMPT_TOKENS = 900
LOGIT_POSITIONS = 8


def tokenizer(gguf):
    """The `smollm` vocabulary of a GGUF file: digits one by one, then GPT-2's bytes and merges."""
    fields = GGUFReader(gguf).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    result = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in merges]))
    result.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == 3])
    result.encode_special_tokens = True
    return result


def guard_prompts(folder, tok):
    """Rows spread over all benchmark files, as the published weights were asked."""
    files = sorted(pathlib.Path(folder).glob("*.json"))
    found, step = [], 0
    while len(found) < PROMPTS:
        for path in files:
            rows = json.loads(path.read_text(encoding="utf-8"))
            row = rows[step * 37 % len(rows)]
            text = row["instruction"] + "\n" + row["input"]
            ids = tok.encode(text, add_special_tokens=False).ids
            if len(ids) <= MAX_PROMPT_TOKENS and len(found) < PROMPTS:
                found.append((f"{path.name}:{step * 37 % len(rows)}", text, ids))
        step += 1
    return found


@torch.no_grad()
def goldens(gguf, folder, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    gguf = pathlib.Path(gguf)
    tok = tokenizer(gguf)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    save_dequantized(model, out / "hf")
    tok.save(str(out / "hf" / "tokenizer.json"))
    cases, tensors = [], {}
    for number, (name, text, ids) in enumerate(guard_prompts(folder, tok)):
        logits = model(torch.tensor([ids])).logits[0]
        positions = sorted({round(i * (len(ids) - 1) / LOGIT_POSITIONS) for i in range(LOGIT_POSITIONS + 1)})
        tensors[f"{number}.positions"] = torch.tensor(positions)
        tensors[f"{number}.logits"] = logits[positions].contiguous()
        generated = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=GREEDY_TOKENS, min_new_tokens=GREEDY_TOKENS, eos_token_id=None, pad_token_id=0)
        cases.append({"name": name, "text": text, "ids": ids, "greedy": generated[0][len(ids):].tolist()})
        print(f"{number + 1}/{PROMPTS} {name}: {len(ids)} tokens", flush=True)
    save_file(tensors, out / "logits.safetensors")
    (out / "cases.json").write_text(json.dumps(cases), encoding="utf-8")


def save_dequantized(model, folder):
    """As `save_pretrained`, which refuses models that came from a GGUF file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")


def compare(saved, reference):
    saved, reference = pathlib.Path(saved), pathlib.Path(reference)
    tensors = [{name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()} for folder in (saved, reference)]
    assert tensors[0].keys() == tensors[1].keys(), tensors[0].keys() ^ tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor.float(), tensors[1][name].float()), name
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    other = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    ids = torch.arange(1, 40)[None]
    assert torch.equal(model(ids).logits, other(ids).logits)
    print(f"{saved.name}: {len(tensors[0])} tensors and the logits are those of {reference.name}")


if __name__ == "__main__":
    {"goldens": goldens, "compare": compare}[sys.argv[1]](*sys.argv[2:])
