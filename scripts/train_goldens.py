"""Five steps of R-SFT and of HS-DPO on a tiny random LLaMA, by PyTorch.

Writes guard-train/testdata/: the model that training starts from, the examples, and for each run
the loss, the norm of all gradients and the learning rate of every step, and the parameters after
the last. The losses are written here from their formulas (arXiv 2501.18492, equation 2; DPO,
arXiv 2305.18290; IPO, arXiv 2310.12036), the gradients are autograd's, the optimiser torch's.

    python scripts/train_goldens.py
"""

import json
import pathlib
import random

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

FOLDER = pathlib.Path(__file__).parent.parent / "guard-train" / "testdata"
VOCABULARY = 61
STEPS = 5


def tiny():
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=28, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, max_position_embeddings=64,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2,
    )
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def row(rng, length):
    return [rng.randrange(3, VOCABULARY) for _ in range(length)]


def log_probs(model, prompt, answer):
    """The log-probability of each token of the answer."""
    ids = torch.tensor([prompt + answer])
    logits = model(ids).logits[0].float()
    table = torch.log_softmax(logits[:-1], dim=-1)
    return table.gather(1, ids[0, 1:, None])[len(prompt) - 1:, 0]


def sft_loss(model, window):
    parts = [log_probs(model, e["prompt"], e["answer"]) for e in window]
    return -torch.cat(parts).sum() / sum(len(part) for part in parts)


def dpo_loss(model, window, settings):
    beta, smoothing = settings["beta"], settings["label_smoothing"]
    total = 0.0
    for pair in window:
        chosen = log_probs(model, pair["prompt"], pair["chosen"])
        rejected = log_probs(model, pair["prompt"], pair["rejected"])
        ref_chosen, ref_rejected = pair["reference"]
        if settings["loss"] == "sigmoid":
            d = (chosen.sum() - rejected.sum()) - (ref_chosen - ref_rejected)
            dpo = -(1 - smoothing) * torch.nn.functional.logsigmoid(beta * d)
            dpo = dpo - smoothing * torch.nn.functional.logsigmoid(-beta * d)
        else:
            d = (chosen.mean() - rejected.mean()) - (ref_chosen / len(chosen) - ref_rejected / len(rejected))
            dpo = (d - 1 / (2 * beta)) ** 2
        ftx = settings["pref_ftx"] * -chosen.mean()
        if settings["weight_scope"] == "total":
            ftx = ftx * pair["weight"]
        total = total + pair["weight"] * dpo + ftx
    return total / len(window)


def train(windows, loss_of, options):
    model = tiny()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options["weight_decay"]},
         {"params": vectors, "weight_decay": 0.0}],
        lr=options["learning_rate"], betas=(0.9, 0.999), eps=1e-8)
    schedule = get_cosine_schedule_with_warmup(optimizer, options["warmup_steps"], STEPS)
    steps = []
    for window in windows:
        optimizer.zero_grad()
        loss = loss_of(model, window)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_gradient_norm"])
        steps.append({"loss": loss.item(), "gradient_norm": norm.item(),
                      "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
    return model, steps


def save(model, name):
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, FOLDER / name, metadata={"format": "pt"})


def main():
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "tiny").mkdir(exist_ok=True)
    rng = random.Random(11)
    model = tiny()
    save(model, "tiny/model.safetensors")
    model.config.architectures = ["LlamaForCausalLM"]
    (FOLDER / "tiny" / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1, default=str) + "\n")

    examples = [{"prompt": row(rng, rng.randrange(1, 9)), "answer": row(rng, rng.randrange(1, 12))}
                for _ in range(4 * STEPS)]
    options = {"learning_rate": 0.01, "warmup_steps": 2, "weight_decay": 0.1, "max_gradient_norm": 1.0}
    windows = [examples[4 * s:4 * s + 4] for s in range(STEPS)]
    runs = {}
    trained, steps = train(windows, sft_loss, options)
    save(trained, "r_sft.safetensors")
    runs["r_sft"] = {"options": options, "examples": examples, "steps": steps}

    pairs = []
    for _ in range(3 * STEPS):
        pair = {"prompt": row(rng, rng.randrange(1, 9)), "chosen": row(rng, rng.randrange(1, 10)),
                "rejected": row(rng, rng.randrange(1, 10)), "weight": rng.choice([0.8, 0.9, 1.0, 1.1, 1.2])}
        with torch.no_grad():
            # Not the model's own, so that the preference term has something to say from the start.
            pair["reference"] = [log_probs(model, pair["prompt"], pair[side]).sum().item() + rng.uniform(-3, 3)
                                 for side in ("chosen", "rejected")]
        pairs.append(pair)
    windows = [pairs[3 * s:3 * s + 3] for s in range(STEPS)]
    for name, settings in {
        "hs_dpo": {"beta": 0.01, "pref_ftx": 2.0, "weight_scope": "dpo", "loss": "sigmoid", "label_smoothing": 0.0},
        "hs_dpo_total": {"beta": 0.5, "pref_ftx": 0.3, "weight_scope": "total", "loss": "sigmoid", "label_smoothing": 0.1},
        "ipo": {"beta": 0.2, "pref_ftx": 0.0, "weight_scope": "dpo", "loss": "ipo", "label_smoothing": 0.0},
    }.items():
        trained, steps = train(windows, lambda m, w: dpo_loss(m, w, settings), options)
        save(trained, f"{name}.safetensors")
        runs[name] = {"options": options, "objective": settings, "pairs": pairs, "steps": steps}
    (FOLDER / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
