"""Steps of full fine-tuning on rows of 512 tokens, every token learnt: PyTorch in 32-bit floats and
in bf16 (autocast) beside `cargo bench -p guard-train --bench step`, in turns on one machine.

    python scripts/bench_train.py FOLDER_OF_THE_MODEL [ROUNDS]
"""

import os
import re
import resource
import statistics
import subprocess
import sys

STEP = """
import resource, sys, time, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[3]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
row = torch.tensor([[1000 + 7 * at for at in range(513)]])
speeds = []
for _ in range(10):
    began = time.time()
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=sys.argv[2] == "bf16"):
        logits = model(row[:, :512]).logits[0]
    torch.nn.functional.cross_entropy(logits.float(), row[0, 1:]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    speeds.append(512 / (time.time() - began))
speeds = sorted(speeds[3:])
print("speed", speeds[len(speeds) // 2], "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

model = sys.argv[1]
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
threads = str(len(os.sched_getaffinity(0)))


def torch_step(kind):
    out = subprocess.run([sys.executable, "-c", STEP, model, kind, threads], capture_output=True, text=True, check=True).stdout
    speed, peak = re.search(r"speed (\S+) peak (\S+)", out).groups()
    return float(speed), float(peak)


def ours(kind):
    # As .cargo/config.toml sets it for programs that cargo starts.
    environment = dict(os.environ, GUARD_BENCH_MODEL=model, GUARD_BENCH_ONLY=kind, MIMALLOC_PURGE_DELAY="-1")
    command = ["/usr/bin/time", "-f", "peak %M", BENCH, "--bench"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    speed = re.search(r"median (\S+) tokens", out.stdout).group(1)
    peak = re.search(r"peak (\d+)", out.stderr).group(1)
    return float(speed), float(peak) / 1024


build = ["cargo", "bench", "--workspace", "--bench", "step", "--no-run"]
built = subprocess.run(build, capture_output=True, text=True, check=True).stderr
BENCH = re.search(r"\((\S*step-\S+)\)", built).group(1)
kinds = {"PyTorch f32": lambda: torch_step("f32"), "PyTorch bf16": lambda: torch_step("bf16"),
         "ours f32, recompute": lambda: ours("recompute"), "ours f32, keep": lambda: ours("keep"),
         "ours f32, adapters": lambda: ours("lora"), "ours bf16x3, keep": lambda: ours("bf16x3"),
         "ours bf16, keep": lambda: ours("bf16"), "ours bf16, adapters": lambda: ours("lora-bf16")}
found = {kind: [] for kind in kinds}
for _ in range(rounds):
    for kind, run in kinds.items():
        found[kind].append(run())
base = statistics.median(speed for speed, _ in found["PyTorch f32"])
print(f"{'':24} tokens/s  ratio  peak MB")
for kind, results in found.items():
    speed = statistics.median(speed for speed, _ in results)
    print(f"{kind:24} {speed:8.0f} {speed / base:6.2f} {max(peak for _, peak in results):8.0f}")
