#!/usr/bin/env python3
"""Prefill and decode of LLaMAs in llama.cpp and PyTorch, as `cargo bench -p guard-infer --bench llama` measures them.

Prints a line of JSON for every file, setting and float type: tokens a second, the median of the repetitions.
Every measurement ends with the logits of the last token; decode reads one token at a time behind a context
of the given depth, and the cache is cut back to it between repetitions. Whether flash attention makes
llama.cpp faster depends on the context, so it is measured with and without: the better figure counts.

pip install torch transformers llama-cpp-python
python3 scripts/bench_peers.py --gguf model.Q8_0.gguf --gguf model.Q4_0.gguf --hf FOLDER --threads 2
"""
import argparse
import itertools
import json
import multiprocessing
import pathlib
import statistics
import time

TOKEN = 1000


def row(length):
    return [TOKEN + index * 7919 % 30_000 for index in range(length)]


class LlamaCpp:
    def __init__(self, path, flash_attention, ubatch, options):
        import llama_cpp

        self.name, self.version = "llama.cpp", f"llama-cpp-python {llama_cpp.__version__}"
        context = max(options.prefill + [depth + options.steps for depth in options.depths])
        self.model = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_batch=context,
            n_ubatch=ubatch,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            flash_attn=flash_attention == "on",
            verbose=False,
        )
        self.settings = {"flash_attention": flash_attention, "ubatch": ubatch}
        # As in "llama 1B Q8_0" and "llama 1B all F32".
        self.type = self.model._model.desc().split(maxsplit=2)[2].removeprefix("all ")

    def read(self, tokens):
        self.model.eval(tokens)

    def cut(self, depth):
        # The next `eval` removes what lies behind from the cache.
        self.model.n_tokens = depth


class PyTorch:
    def __init__(self, path, dtype, is_config, options):
        import torch
        import transformers

        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        self.name, self.version = "pytorch", f"torch {torch.__version__}, transformers {transformers.__version__}"
        self.type = {"float32": "F32", "bfloat16": "BF16"}[dtype]
        self.settings = {}
        kind = transformers.AutoModelForCausalLM
        if is_config:
            model = kind.from_config(transformers.AutoConfig.from_pretrained(path), dtype=getattr(torch, dtype))
        else:
            model = kind.from_pretrained(path, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.rows, self.new_cache = torch.tensor, transformers.DynamicCache
        self.cut(0)

    def read(self, tokens):
        self.model(self.rows([tokens]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def cut(self, depth):
        if depth == 0:
            self.cache = self.new_cache()
        elif self.cache.get_seq_length() > depth:
            self.cache.crop(depth - self.cache.get_seq_length())


def tokens_per_second(tokens, run, before, repeats):
    seconds = []
    for _ in range(repeats + 1):
        before()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return round(tokens / statistics.median(seconds[1:]), 1)


def measure(path, options, kind, *arguments):
    """Prints the line of one peer. In a process of its own, so that peers share neither threads nor memory."""
    peer = kind(path, *arguments, options)
    prefill, decode = {}, {}
    for length in options.prefill:
        tokens = row(length)
        prefill[length] = tokens_per_second(
            length, lambda: peer.read(tokens), lambda: peer.cut(0), options.repeats
        )
    for depth in options.depths:
        peer.cut(0)
        if depth:
            peer.read(row(depth))

        def steps():
            for _ in range(options.steps):
                peer.read([TOKEN])

        decode[depth] = tokens_per_second(options.steps, steps, lambda: peer.cut(depth), options.repeats)
    line = {
        "peer": peer.name,
        "version": peer.version,
        "file": pathlib.Path(path).name,
        "type": peer.type,
        "settings": {"threads": options.threads, **peer.settings},
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
    }
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", action="append", default=[], help="a file for llama.cpp")
    parser.add_argument("--hf", action="append", default=[], help="a transformers folder for PyTorch")
    parser.add_argument("--hf-config", action="append", default=[], help="a config.json for PyTorch: random weights")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--prefill", nargs="+", type=int, default=[128, 602, 2000], help="lengths of prompts")
    parser.add_argument("--depths", nargs="+", type=int, default=[0, 600, 2000], help="tokens before those decoded")
    parser.add_argument("--steps", type=int, default=32, help="tokens decoded in a repetition")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, after one that does not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash-attention", nargs="+", default=["on", "off"], choices=["on", "off"], help="llama.cpp")
    parser.add_argument("--ubatch", nargs="+", type=int, default=[512], help="llama.cpp: tokens computed at once")
    options = parser.parse_args()
    settings = list(itertools.product(options.flash_attention, options.ubatch))
    runs = [(path, options, LlamaCpp, *setting) for path in options.gguf for setting in settings]
    for paths, is_config in [(options.hf, False), (options.hf_config, True)]:
        runs += [(path, options, PyTorch, dtype, is_config) for path in paths for dtype in options.dtypes]
    for run in runs:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=run)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{run[0]}: failed")


if __name__ == "__main__":
    main()
