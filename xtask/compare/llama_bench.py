"""Measures llama.cpp the way llama-bench does, through the llama-cpp-python package, one run at a time on demand.

It stays alive between runs, so that another engine's runs can be interleaved with these. It reads one JSON object a
line and answers each with one line:

    {"cmd": "about"}                                                  -> {"package", "system_info"}
    {"cmd": "load", "path", "threads", "n_prompt", "n_gen"}           -> {"description", "size_bytes"}
    {"cmd": "measure", "test": "pp" | "tg"}                           -> {"tokens", "seconds"}

As in llama-bench: `pp` is one batch of random tokens (BOS first where the model wants it) with logits for the last
row only; `tg` feeds random tokens one by one and waits for each; the cache is cleared before every run; a context
holds exactly the tokens of its test; n_batch 2048, n_ubatch 512, f16 cache, flash attention "auto", weights repacked
where llama.cpp can; the threads are the same for prompt and generation, and form one pool for all runs. The warm-up
(the whole prompt; one token) happens at load. Time is taken around the calls into llama.cpp: the interpreter adds a
few microseconds to each token of `tg`.
"""

import contextlib
import ctypes
import functools
import json
import os
import random
import sys
import time

import llama_cpp
from llama_cpp import llama_cpp as api


class ThreadpoolParams(ctypes.Structure):
    """ggml_threadpool_params of ggml.h; 512 is its GGML_MAX_N_THREADS."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


@functools.cache
def threadpool(threads: int) -> ctypes.c_void_p:
    """One pool for all runs: without it, a build without OpenMP would start its threads anew for every token."""
    folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    base = ctypes.CDLL(os.path.join(folder, "libggml-base.so"))
    cpu = ctypes.CDLL(os.path.join(folder, "libggml-cpu.so"))
    base.ggml_threadpool_params_default.restype = ThreadpoolParams
    base.ggml_threadpool_params_default.argtypes = [ctypes.c_int]
    cpu.ggml_threadpool_new.restype = ctypes.c_void_p
    cpu.ggml_threadpool_new.argtypes = [ctypes.POINTER(ThreadpoolParams)]
    params = base.ggml_threadpool_params_default(threads)
    pool = cpu.ggml_threadpool_new(ctypes.byref(params))
    if not pool:
        raise RuntimeError(f"no threadpool of {threads} threads")
    return ctypes.c_void_p(pool)


class Bench:
    """One loaded model with a context per test."""

    def __init__(self, path: str, threads: int, n_prompt: int, n_gen: int):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.num_tokens = llama_cpp.llama_vocab_n_tokens(vocab)
        self.bos = llama_cpp.llama_vocab_bos(vocab) if llama_cpp.llama_vocab_get_add_bos(vocab) else None
        self.counts = {"pp": n_prompt, "tg": n_gen}
        self.threads = threads
        self.pool = threadpool(threads)
        self.contexts = {test: self.new_context(count) for test, count in self.counts.items()}
        self.batches = {test: llama_cpp.llama_batch_init(count, 0, 1) for test, count in self.counts.items()}
        self.run_prompt(n_prompt)
        self.run_generation(1)

    def new_context(self, n_ctx: int):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = 2048
        params.n_ubatch = 512
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_AUTO
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {n_ctx} tokens")
        attach = api._lib.llama_attach_threadpool
        attach.restype = None
        attach.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        attach(context, self.pool, None)
        return context

    def first_token(self) -> int:
        return self.bos if self.bos is not None else random.randrange(self.num_tokens)

    def decode(self, context, batch) -> None:
        status = llama_cpp.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with status {status}")

    def run_prompt(self, count: int) -> float:
        context, batch = self.contexts["pp"], self.batches["pp"]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        batch.n_tokens = count
        for i in range(count):
            set_row(batch, i, random.randrange(self.num_tokens), i, wants_logits=i + 1 == count)
        batch.token[0] = self.first_token()
        start = time.perf_counter()
        self.decode(context, batch)
        llama_cpp.llama_synchronize(context)
        return time.perf_counter() - start

    def run_generation(self, count: int) -> float:
        context, batch = self.contexts["tg"], self.batches["tg"]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        tokens = [self.first_token()] + [random.randrange(self.num_tokens) for _ in range(count - 1)]
        batch.n_tokens = 1
        start = time.perf_counter()
        for position, token in enumerate(tokens):
            set_row(batch, 0, token, position, wants_logits=True)
            self.decode(context, batch)
            llama_cpp.llama_synchronize(context)
        return time.perf_counter() - start

    def measure(self, test: str) -> dict:
        count = self.counts[test]
        seconds = self.run_prompt(count) if test == "pp" else self.run_generation(count)
        return {"tokens": count, "seconds": seconds}

    def describe(self) -> dict:
        text = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.model, text, len(text))
        return {"description": text.value.decode(), "size_bytes": llama_cpp.llama_model_size(self.model)}

    def close(self) -> None:
        for test, context in self.contexts.items():
            llama_cpp.llama_free(context)
            llama_cpp.llama_batch_free(self.batches[test])
        llama_cpp.llama_model_free(self.model)


def set_row(batch, i: int, token: int, position: int, wants_logits: bool) -> None:
    batch.token[i] = token
    batch.pos[i] = position
    batch.n_seq_id[i] = 1
    batch.seq_id[i][0] = 0
    batch.logits[i] = wants_logits


class Server:
    def __init__(self):
        llama_cpp.llama_backend_init()
        self.silent = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.silent, None)
        self.bench = None

    def answer(self, request: dict) -> dict:
        match request:
            case {"cmd": "about"}:
                info = llama_cpp.llama_print_system_info().decode().strip()
                return {"package": f"llama-cpp-python {llama_cpp.__version__}", "system_info": info}
            case {"cmd": "load", "path": path, "threads": threads, "n_prompt": n_prompt, "n_gen": n_gen}:
                if self.bench:
                    self.bench.close()
                self.bench = None
                self.bench = Bench(path, threads, n_prompt, n_gen)
                return self.bench.describe()
            case {"cmd": "measure", "test": "pp" | "tg" as test} if self.bench:
                return self.bench.measure(test)
        raise ValueError(f"unknown request, or nothing loaded yet: {request}")


def main() -> None:
    # llama.cpp may print; answers must be the only thing on the real standard output.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server()
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            try:
                answer = server.answer(json.loads(line))
            except (RuntimeError, ValueError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
