"""Records what SmolLM2's weights say without activation quantisation: `tests/golden/smollm2-exact.json`.

llama.cpp runs the default model dequantised to F32 (`llama-quantize --allow-requantize MODEL OUT f32`), without flash
attention, teacher-forced on the ids of `smollm2-q4_1-greedy.json`. Per prompt and step: the log-probability of the golden
id and the three most likely tokens.

Usage: smollm2_exact.py F32_MODEL.gguf smollm2-q4_1-greedy.json smollm2-exact.json   (llama-cpp-python 0.3.36, numpy)
"""

import json
import sys

import numpy as np
from llama_cpp import Llama


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def main(model, greedy, out):
    llama = Llama(model, n_ctx=512, n_batch=512, n_ubatch=512, logits_all=True, flash_attn=False, verbose=False)
    records = []
    for golden in json.load(open(greedy)):
        ids = golden["prompt_ids"] + golden["output_ids"][:-1]
        llama.reset()
        llama.eval(ids)
        rows = log_softmax(llama.scores[len(golden["prompt_ids"]) - 1 : len(ids)])
        steps = []
        for row, token in zip(rows, golden["output_ids"]):
            top = np.argsort(-row, kind="stable")[:3]
            steps.append({"id": token, "logprob": round(row[token], 5), "top": [[int(t), round(row[t], 5)] for t in top]})
        records.append(steps)
    with open(out, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in records) + "\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
