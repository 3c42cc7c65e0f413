#!/usr/bin/env python3
"""Requests a second and latency of llama.cpp's server: continuous batching, prompt cache on, one slot a client.

For every concurrency a server is started afresh and asked to continue the same prompts, greedily and by exactly
the given number of tokens. Prints a line of JSON for each. Options behind `--` go to the server.

python3 scripts/bench_server.py --server llama-server --gguf model.Q8_0.gguf --prompts prompts.jsonl --threads 2
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Only the likeliest token is kept, so that no time goes into sampling.
GREEDY = {"temperature": 0, "top_k": 1, "samplers": ["top_k"], "ignore_eos": True, "cache_prompt": True}


class Server:
    """A running llama-server; its log is shown if it does not come up."""

    def __init__(self, options, slots):
        self.url = f"http://127.0.0.1:{options.port}"
        command = [options.server, "--model", options.gguf, "--port", str(options.port), "--parallel", str(slots)]
        command += ["--ctx-size", str(slots * options.context), "--threads", str(options.threads)]
        command += ["--threads-batch", str(options.threads), "--offline", *options.extra]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            return self.wait()
        except BaseException:
            self.process.kill()
            raise

    def wait(self):
        while self.process.poll() is None:
            try:
                self.version = self.ask("/props")["build_info"]
                self.complete("Hello", 4)
                return self
            except urllib.error.URLError:
                time.sleep(0.2)
        self.log.seek(0)
        raise SystemExit(f"the server ended:\n{self.log.read()[-2000:]}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def ask(self, path, body=None):
        request = urllib.request.Request(self.url + path, data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def complete(self, prompt, tokens):
        """The answer and the seconds it took."""
        start = time.perf_counter()
        answer = self.ask("/completion", GREEDY | {"prompt": prompt, "n_predict": tokens})
        return answer, time.perf_counter() - start


def measure(options, prompts, concurrency):
    with Server(options, concurrency) as server, concurrent.futures.ThreadPoolExecutor(concurrency) as clients:
        start = time.perf_counter()
        answers = list(clients.map(lambda prompt: server.complete(prompt, options.tokens), prompts))
        seconds = time.perf_counter() - start
    for answer, _ in answers:
        if answer["tokens_predicted"] != options.tokens or answer["truncated"]:
            raise SystemExit(f"{answer['tokens_predicted']} tokens were generated: raise --context")
    taken = [taken for _, taken in answers]
    quantiles = statistics.quantiles(taken, n=20, method="inclusive")
    line = {
        "peer": "llama.cpp server",
        "version": server.version,
        "file": pathlib.Path(options.gguf).name,
        "concurrency": concurrency,
        "requests": len(prompts),
        "tokens_each": options.tokens,
        "prompt_tokens": sum(answer["tokens_evaluated"] for answer, _ in answers),
        "prompt_tokens_cached": sum(answer["timings"]["cache_n"] for answer, _ in answers),
        "seconds": round(seconds, 2),
        "requests_per_second": round(len(prompts) / seconds, 3),
        "p50_seconds": round(statistics.median(taken), 3),
        "p95_seconds": round(quantiles[-1], 3),
    }
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="llama-server", help="the program")
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--prompts", required=True, help="JSON lines with the field `prompt`")
    parser.add_argument("--limit", type=int, default=200, help="how many prompts")
    parser.add_argument("--tokens", type=int, default=200, help="tokens generated for each")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--context", type=int, default=4096, help="tokens of a slot")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("extra", nargs="*", help="options of the server, behind `--`")
    options = parser.parse_args()
    with open(options.prompts) as lines:
        prompts = [json.loads(line)["prompt"] for line in lines][: options.limit]
    if len(prompts) < 2:
        parser.error("at least two prompts are needed")
    for concurrency in options.concurrency:
        measure(options, prompts, concurrency)


if __name__ == "__main__":
    main()
