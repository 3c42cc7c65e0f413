"""R-SFT in PyTorch on the batches that `train_rsft` has with `order = "as_given"`: its loss curve,
speed and memory, to lay beside ours.

    python scripts/train_curve.py --model FOLDER --data traces.jsonl --steps 100 --rows 4 \
        --learning-rate 5e-5 [--adapter FOLDER] [--bf16] [--cutoff 2048] --output curve.jsonl

FOLDER of --adapter is an untrained adapter (`train_rsft --lora 8 --learning-rate 0 --max-steps 1`
writes one), so that both runs begin alike. With --compare steps.jsonl the two curves are compared.
"""

import argparse
import json
import pathlib
import resource
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

arguments = argparse.ArgumentParser()
for name, kind, default in [("--model", str, None), ("--data", str, None), ("--steps", int, 100),
                            ("--rows", int, 4), ("--learning-rate", float, 5e-5), ("--adapter", str, None),
                            ("--cutoff", int, 2048), ("--output", str, None), ("--compare", str, None),
                            ("--threads", int, 2)]:
    arguments.add_argument(name, type=kind, default=default)
arguments.add_argument("--bf16", action="store_true")
arguments = arguments.parse_args()

torch.set_num_threads(arguments.threads)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)


def encode(row):
    """ChatML without a system turn; prompt and answer apart; LLaMA-Factory's cut."""
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = ids("<|im_start|>user\n" + row["instruction"] + "\n" + row["input"] + "<|im_end|>\n<|im_start|>assistant\n")
    answer = ids(row["output"]) + ids("<|im_end|>")
    s, t, c = len(prompt), len(answer), arguments.cutoff
    most = c if t * 2 < c else c - s if s * 2 < c else int(c * (t / (s + t)))
    answer = answer[:min(most, t)]
    return prompt[:max(c - len(answer), 0)], answer


text = pathlib.Path(arguments.data).read_text()
rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
rows = [encode(row) for row in rows[:arguments.steps * arguments.rows]]

model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
if arguments.adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
model.train()
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
schedule = get_cosine_schedule_with_warmup(optimizer, 0, arguments.steps)

losses, spent, tokens = [], [], []
for step in range(arguments.steps):
    began = time.time()
    window = rows[step * arguments.rows:(step + 1) * arguments.rows]
    targets = sum(len(answer) for _, answer in window)
    optimizer.zero_grad()
    total = 0.0
    for prompt, answer in window:
        ids = torch.tensor([prompt + answer])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bf16):
            logits = model(ids[:, :-1]).logits[0, len(prompt) - 1:]
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, len(prompt):], reduction="sum") / targets
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    losses.append(total)
    spent.append(time.time() - began)
    tokens.append(sum(len(p) + len(a) for p, a in window))
    print(f"step {step + 1}: loss {total:.4f}, {tokens[-1] / spent[-1]:.0f} tokens/s", flush=True)

warm = slice(min(3, arguments.steps - 1), None)
print(f"median {sorted(t / s for t, s in zip(tokens[warm], spent[warm]))[len(spent[warm]) // 2]:.0f} tokens/s, "
      f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
if arguments.output:
    lines = [json.dumps({"step": n + 1, "loss": loss, "tokens": t, "seconds": s}) for n, (loss, t, s) in enumerate(zip(losses, tokens, spent))]
    pathlib.Path(arguments.output).write_text("\n".join(lines) + "\n")
if arguments.compare:
    ours = [json.loads(line) for line in pathlib.Path(arguments.compare).read_text().splitlines()]
    apart = [abs(mine["loss"] - theirs) / theirs for mine, theirs in zip(ours, losses)]
    assert [line["tokens"] for line in ours][:arguments.steps] == tokens, "other batches"
    print(f"largest difference of the losses {100 * max(apart):.3f} percent, at the end {100 * apart[-1]:.3f} percent")
