# goldens: --model {model} --text {root}/LICENSE-APACHE --out {root}/tests/golden/perplexity.json
"""Records llama.cpp's perplexity of a text, by llama-perplexity's method: chunks of the context's length, each computed on its
own, the second half of every chunk counted. The model adds no BOS, so chunks are plain slices of the ids."""

import argparse
import json

import numpy as np
from llama_cpp import Llama

CTX = 512


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    llama = Llama(args.model, n_ctx=CTX, n_batch=CTX, logits_all=True, verbose=False)
    with open(args.text, "rb") as file:
        ids = llama.tokenize(file.read(), add_bos=False, special=False)
    loss, count = 0.0, 0
    for start in range(0, len(ids) - CTX + 1, CTX):
        chunk = ids[start : start + CTX]
        llama.reset()
        llama.eval(chunk)
        for position in range(CTX // 2, CTX - 1):
            logits = llama.scores[position].astype(np.float64)
            top = logits.max()
            loss += top + np.log(np.exp(logits - top).sum()) - logits[chunk[position + 1]]
            count += 1
    golden = {"ctx": CTX, "tokens": count, "perplexity": float(np.exp(loss / count))}
    with open(args.out, "w") as file:
        json.dump(golden, file)
        file.write("\n")


if __name__ == "__main__":
    main()
