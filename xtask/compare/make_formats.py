"""Makes one GGUF file per block format from one source model, with llama.cpp's own quantiser.

    python make_formats.py --source MODEL.gguf --out FOLDER [--stem NAME] [--formats Q4_0,...] [--source-format Q4_1]

Writes FOLDER/NAME-<FORMAT>.gguf for every format that is missing, under a temporary name first, and prints one
JSON object a line: {"format", "path", "tensor_types": {"Q4_0": 211, "F32": 61}, "tensor_bytes"}. For the format named by
--source-format the source itself is taken as it is.

The source may be quantised already (the default model is): these files are for timing and for checking loaders, and
a rounding on top of a rounding changes neither bytes nor operations. Every matrix gets the wanted type ("pure");
where a row is no multiple of the format's block (256 weights for K-quants) llama.cpp falls back to a 32-weight
format of similar size, which `tensor_types` shows.

Needs: llama-cpp-python and gguf (versions in requirements.txt).
"""

import argparse
import collections
import json
import os
import pathlib
import sys

import gguf
import llama_cpp
from llama_cpp import llama_cpp as api

FTYPES = {
    "F32": api.LLAMA_FTYPE_ALL_F32,
    "F16": api.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": api.LLAMA_FTYPE_MOSTLY_BF16,
    "Q4_0": api.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": api.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": api.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": api.LLAMA_FTYPE_MOSTLY_Q5_1,
    "Q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K": api.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q5_K": api.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "Q6_K": api.LLAMA_FTYPE_MOSTLY_Q6_K,
}


def quantize(source: pathlib.Path, target: pathlib.Path, format_name: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[format_name]
    params.allow_requantize = True
    params.pure = True
    partial = target.with_name(f".{target.name}.part")
    try:
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(partial), params)
        if status != 0:
            sys.exit(f"error: llama_model_quantize to {format_name} failed with status {status}")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def describe(path: pathlib.Path) -> dict:
    """Tensor count by type, most frequent first, and the bytes of all tensors."""
    tensors = gguf.GGUFReader(path).tensors
    types = collections.Counter(tensor.tensor_type.name for tensor in tensors)
    return {"tensor_types": dict(types.most_common()), "tensor_bytes": sum(int(tensor.n_bytes) for tensor in tensors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--stem", default="SmolLM2-135M-Instruct")
    parser.add_argument("--formats", default=",".join(FTYPES))
    parser.add_argument("--source-format", choices=FTYPES)
    args = parser.parse_args()

    formats = args.formats.split(",")
    unknown = [name for name in formats if name not in FTYPES]
    if unknown:
        sys.exit(f"error: unknown formats {unknown}; known: {', '.join(FTYPES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    llama_cpp.llama_backend_init()
    silent = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(silent, None)
    for name in formats:
        path = args.source if name == args.source_format else args.out / f"{args.stem}-{name}.gguf"
        if not path.exists():
            quantize(args.source, path, name)
        print(json.dumps({"format": name, "path": str(path), **describe(path)}), flush=True)


if __name__ == "__main__":
    main()
