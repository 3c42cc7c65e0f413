"""R-SFT, or HS-DPO with --pairs, in PyTorch on the batches that `train_rsft` and `train_hsdpo` have with
`order = "as_given"`: the loss curve, speed and memory, to lay beside ours.

    python scripts/train_curve.py --model FOLDER --data traces.jsonl --steps 100 --rows 4 \
        --learning-rate 5e-5 [--adapter FOLDER] [--bf16] [--pairs] [--cutoff 2048] --output curve.jsonl

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
arguments.add_argument("--pairs", action="store_true")
arguments = arguments.parse_args()

torch.set_num_threads(arguments.threads)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)


def encode(row):
    """ChatML without a system turn; prompt and answers apart; LLaMA-Factory's cut."""
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = ids("<|im_start|>user\n" + row["instruction"] + "\n" + row["input"] + "<|im_end|>\n<|im_start|>assistant\n")
    texts = [row["chosen"], row["rejected"]] if arguments.pairs else [row["output"]]
    answers = [ids(text) + ids("<|im_end|>") for text in texts]
    s, t, c = len(prompt), max(map(len, answers)), arguments.cutoff
    most = c if t * 2 < c else c - s if s * 2 < c else int(c * (t / (s + t)))
    kept = min(most, t)
    return prompt[:max(c - kept, 0)], [answer[:kept] for answer in answers]


def log_probs(prompt, answer):
    """The log-probability of each token of the answer."""
    ids = torch.tensor([prompt + answer])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bf16):
        logits = model(ids[:, :-1]).logits[0, len(prompt) - 1:]
    return -torch.nn.functional.cross_entropy(logits.float(), ids[0, len(prompt):], reduction="none")


def dpo(row, reference):
    """HS-DPO of the paper, equation 2, with its defaults: beta 0.01, and twice the loss of fine-tuning."""
    prompt, answers = row
    chosen, rejected = (log_probs(prompt, answer) for answer in answers)
    margin = 0.01 * ((chosen.sum() - rejected.sum()) - (reference[0] - reference[1]))
    return -torch.nn.functional.logsigmoid(margin) - 2.0 * chosen.mean()


text = pathlib.Path(arguments.data).read_text()
rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
rows = [encode(row) for row in rows[:arguments.steps * arguments.rows]]

model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
if arguments.adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
model.train()
references = []
if arguments.pairs:
    with torch.no_grad():
        references = [[log_probs(prompt, answer).sum() for answer in answers] for prompt, answers in rows]
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
schedule = get_cosine_schedule_with_warmup(optimizer, 0, arguments.steps)

losses, spent, tokens = [], [], []
for step in range(arguments.steps):
    began = time.time()
    chosen = range(step * arguments.rows, min(len(rows), (step + 1) * arguments.rows))
    window = [rows[at] for at in chosen]
    targets = sum(len(answer) for _, answers in window for answer in answers)
    optimizer.zero_grad()
    total = 0.0
    for at in chosen:
        prompt, answers = rows[at]
        if arguments.pairs:
            loss = dpo(rows[at], references[at]) / len(window)
        else:
            loss = -log_probs(prompt, answers[0]).sum() / targets
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    losses.append(total)
    spent.append(time.time() - began)
    tokens.append(sum(len(prompt) + len(answer) for prompt, answers in window for answer in answers))
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
