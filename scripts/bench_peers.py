#!/usr/bin/env python3
"""Prefill and decode of the same model in llama.cpp and PyTorch, as `cargo bench -p guard-infer --bench llama` does.

pip install torch transformers llama-cpp-python
python3 scripts/bench_peers.py --hf smollm2-hf --gguf SmolLM2-135M-f32.gguf --threads 2
"""
import argparse
import statistics
import time

LENGTHS = (128, 602)
DEPTHS = (32, 602)
REPEATS = 5


def row(length):
    return [1000 + index * 7919 % 30_000 for index in range(length)]


def median_seconds(run, before=lambda: None):
    times = []
    for _ in range(REPEATS + 1):
        before()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def report(peer, what, tokens, seconds):
    print(f"{peer:20} {what:16} {tokens / seconds:9.1f} tokens/s")


def pytorch(folder, threads):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        name = f"pytorch {str(dtype).split('.')[1]}"
        for length in LENGTHS:
            ids = torch.tensor([row(length)])
            report(name, f"prefill {length}", length, median_seconds(lambda: model(ids, logits_to_keep=1)))
        for depth in DEPTHS:
            cache = model(torch.tensor([row(depth)]), use_cache=True, logits_to_keep=1).past_key_values
            token = torch.tensor([[1000]])

            def steps():
                for _ in range(16):
                    model(token, past_key_values=cache, use_cache=True)
                cache.crop(-16)

            report(name, f"decode at {depth}", 16, median_seconds(steps))


def llama_cpp(path, threads):
    from llama_cpp import Llama

    model = Llama(path, n_ctx=2048, n_batch=2048, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    name = f"llama.cpp {path.rsplit('.', 2)[-2]}"
    for length in LENGTHS:
        report(name, f"prefill {length}", length, median_seconds(lambda: model.eval(row(length)), model.reset))
    for depth in DEPTHS:

        def deep():
            model.reset()
            model.eval(row(depth))

        def steps():
            for _ in range(16):
                model.eval([1000])

        report(name, f"decode at {depth}", 16, median_seconds(steps, deep))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hf", help="a transformers folder")
    arguments.add_argument("--gguf", nargs="*", default=[], help="GGUF files")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    for gguf in options.gguf:
        llama_cpp(gguf, options.threads)
    if options.hf:
        pytorch(options.hf, options.threads)
