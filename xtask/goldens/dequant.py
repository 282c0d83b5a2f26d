"""Random blocks of every weight format and the values that the gguf package gives them.

Writes one record per format: GGML type, number of weights and number of bytes (three u32), the stored bytes, and the
values as float32; all little-endian. K-quant scales go through every 6-bit value in every place of the packing.
"""
# goldens: --out {root}/tests/golden/dequant.bin

import argparse
import struct

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

SEED = 20240917


def f16_bytes(values: np.ndarray) -> np.ndarray:
    """[n] float16 -> [n, 2] bytes."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def scales(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 2] bytes of float16 scales: ordinary ones of both signs, subnormal ones, zeros and the extremes."""
    values = (rng.choice([-1.0, 1.0], count) * 2.0 ** rng.uniform(-13, 3, count)).astype(np.float16)
    subnormal = rng.integers(1, 1024, count).astype(np.uint16) | (rng.integers(0, 2, count) << 15).astype(np.uint16)
    values = np.where(rng.random(count) < 0.2, subnormal.view(np.float16), values)
    values[:6] = np.array([0x0000, 0x8000, 0x7BFF, 0xFBFF, 0x0001, 0x8001], np.uint16).view(np.float16)
    return f16_bytes(rng.permutation(values))


def k_scales(count: int) -> np.ndarray:
    """[count, 12] bytes; in 64 blocks each of the 16 six-bit factors takes all 64 values."""
    block, place = np.arange(count)[:, None], np.arange(8)[None, :]
    sc, m = (block + 8 * place) % 64, (5 * block + 11 * place + 3) % 64
    low = np.concatenate([sc[:, :4] | sc[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6], axis=1)
    high = sc[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    return np.concatenate([low, high], axis=1).astype(np.uint8)


def floats(rng: np.random.Generator, count: int, dtype: str, exponent: int) -> np.ndarray:
    """Random bit patterns, special cases of both signs first; NaNs (their payloads are nobody's promise) become finite."""
    patterns = rng.integers(0, np.iinfo(dtype).max, count, dtype=dtype, endpoint=True)
    of_type = np.dtype(dtype).type
    sign, least = of_type(1 << (8 * patterns.itemsize - 1)), exponent & -exponent
    special = np.array([0, 1, least - 1, least, exponent - 1, exponent], dtype)
    patterns[:12] = np.concatenate([special, special | sign])
    exponent = of_type(exponent)
    is_nan = (patterns & ~sign) > exponent
    return np.where(is_nan, patterns ^ exponent, patterns).astype(dtype).view(np.uint8)


def blocks(rng: np.random.Generator, kind: Type) -> np.ndarray:
    """The stored bytes of one long row."""

    def noise(count: int, size: int) -> np.ndarray:
        return rng.integers(0, 256, (count, size), dtype=np.uint8)

    match kind:
        case Type.F32:
            return floats(rng, 1024, "<u4", 0x7F800000)
        case Type.F16:
            return floats(rng, 2048, "<u2", 0x7C00)
        case Type.BF16:
            return floats(rng, 2048, "<u2", 0x7F80)
        case Type.Q4_0:
            parts = [scales(rng, 64), noise(64, 16)]
        case Type.Q4_1:
            parts = [scales(rng, 64), scales(rng, 64), noise(64, 16)]
        case Type.Q5_0:
            parts = [scales(rng, 64), noise(64, 20)]
        case Type.Q5_1:
            parts = [scales(rng, 64), scales(rng, 64), noise(64, 20)]
        case Type.Q8_0:
            parts = [scales(rng, 64), noise(64, 32)]
        case Type.Q4_K:
            parts = [scales(rng, 64), scales(rng, 64), k_scales(64), noise(64, 128)]
        case Type.Q5_K:
            parts = [scales(rng, 64), scales(rng, 64), k_scales(64), noise(64, 160)]
        case Type.Q6_K:
            parts = [noise(24, 192), noise(24, 16), scales(rng, 24)]
    return np.concatenate(parts, axis=1).reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    kinds = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K,
             Type.Q5_K, Type.Q6_K]
    with open(args.out, "wb") as out:
        for kind in kinds:
            stored = blocks(rng, kind)
            values = dequantize(stored, kind).astype("<f4").reshape(-1)
            assert not np.isnan(values).any(), kind
            out.write(struct.pack("<III", kind.value, values.size, stored.size))
            out.write(stored.tobytes())
            out.write(values.tobytes())


if __name__ == "__main__":
    main()
