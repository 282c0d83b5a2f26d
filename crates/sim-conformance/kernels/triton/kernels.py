"""Kernels in Triton, compiled for cuda:80 and cuda:90 without a GPU.

    PYTHONPATH=<Triton> python3 kernels.py FOLDER

writes FOLDER/<kernel>-<capability>.ptx and .json (entry, shared_bytes, warps). Every kernel takes two more pointers than it names, for
scratch memory that none of them needs.
"""

import json
import pathlib
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def vector_add(x, y, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def softmax(x, out, cols, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0) * cols
    values = tl.load(x + row + at, mask=at < cols, other=float("-inf"))
    weights = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row + at, weights / tl.sum(weights, axis=0), mask=at < cols)


@triton.jit
def layer_norm(x, weight, bias, out, cols, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0) * cols
    values = tl.load(x + row + at, mask=at < cols, other=0.0)
    mean = tl.sum(values, axis=0) / cols
    centred = tl.where(at < cols, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / cols + eps)
    w = tl.load(weight + at, mask=at < cols)
    b = tl.load(bias + at, mask=at < cols)
    tl.store(out + row + at, centred * scale * w + b, mask=at < cols)


@triton.jit
def sum_atomic(x, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, mask=at < count, other=0)
    tl.atomic_add(out, tl.sum(values, axis=0))
    tl.atomic_max(out + 1, tl.max(values, axis=0))


@triton.jit
def prefix_sum(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.cumsum(tl.load(x + at), axis=0))


@triton.jit
def sort_rows(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.sort(tl.load(x + at)))


@triton.jit
def matmul(a, b, c, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, SUM: tl.constexpr):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    cols = tl.program_id(1) * N + tl.arange(0, N)
    depth = tl.arange(0, K)
    left = a + rows[:, None] * k + depth[None, :]
    right = b + depth[:, None] * n + cols[None, :]
    total = tl.zeros((M, N), dtype=SUM)
    for start in range(0, k, K):
        x = tl.load(left, mask=(rows[:, None] < m) & (depth[None, :] < k - start), other=0)
        y = tl.load(right, mask=(depth[:, None] < k - start) & (cols[None, :] < n), other=0)
        total = tl.dot(x, y, total, out_dtype=SUM)
        left += K
        right += K * n
    tl.store(c + rows[:, None] * n + cols[None, :], total, mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def attention(q, k, v, out, tokens, scale, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, DIM)
    head = tl.program_id(1) * tokens * DIM
    query = tl.load(q + head + rows[:, None] * DIM + dims[None, :])
    largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    weights = tl.zeros((ROWS,), dtype=tl.float32)
    total = tl.zeros((ROWS, DIM), dtype=tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * ROWS, KEYS):
        keys = start + tl.arange(0, KEYS)
        key = tl.load(k + head + keys[None, :] * DIM + dims[:, None])
        scores = tl.dot(query, key) * scale
        scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        p = tl.exp(scores - now[:, None])
        before = tl.exp(largest - now)
        weights = weights * before + tl.sum(p, axis=1)
        value = tl.load(v + head + keys[:, None] * DIM + dims[None, :])
        total = tl.dot(p.to(tl.float16), value, total * before[:, None])
        largest = now
    tl.store(out + head + rows[:, None] * DIM + dims[None, :], total / weights[:, None])


# Operands and result as tensor descriptors that the host makes.
@triton.jit
def matmul_host_descriptors(a, b, c, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row = tl.program_id(0) * M
    col = tl.program_id(1) * N
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        total = tl.dot(a.load([row, start]), b.load([start, col]), total)
    c.store([row, col], total)


# The same with descriptors that each CTA makes in memory; the result is added to what is there.
@triton.jit
def matmul_device_descriptors(a, b, c, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row = tl.program_id(0) * M
    col = tl.program_id(1) * N
    left = tl.make_tensor_descriptor(a, [m, k], [k, 1], [M, K])
    right = tl.make_tensor_descriptor(b, [k, n], [n, 1], [K, N])
    out = tl.make_tensor_descriptor(c, [m, n], [n, 1], [M, N])
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        total = tl.dot(left.load([row, start]), right.load([start, col]), total)
    out.atomic_add([row, col], total)


@triton.jit
def attention_descriptors(
    q, k, v, out, tokens, scale, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr
):
    first = tl.program_id(1) * tokens
    start_row = tl.program_id(0) * ROWS
    rows = start_row + tl.arange(0, ROWS)
    query = q.load([first + start_row, 0])
    largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    weights = tl.zeros((ROWS,), dtype=tl.float32)
    total = tl.zeros((ROWS, DIM), dtype=tl.float32)
    for start in range(0, start_row + ROWS, KEYS):
        keys = start + tl.arange(0, KEYS)
        scores = tl.dot(query, k.load([first + start, 0]).T) * scale
        scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        p = tl.exp(scores - now[:, None])
        before = tl.exp(largest - now)
        weights = weights * before + tl.sum(p, axis=1)
        total = tl.dot(p.to(tl.float16), v.load([first + start, 0]), total * before[:, None])
        largest = now
    out.store([first + start_row, 0], total / weights[:, None])


# Kernel, types of its arguments, constants, options.
KERNELS = {
    "vector_add": (vector_add, ["*fp32"] * 3 + ["i32"], {"BLOCK": 256}, {}),
    "softmax": (softmax, ["*fp32", "*fp32", "i32"], {"BLOCK": 256}, {}),
    "layer_norm": (layer_norm, ["*fp32"] * 4 + ["i32", "fp32"], {"BLOCK": 256}, {}),
    "sum_atomic": (sum_atomic, ["*i32", "*i32", "i32"], {"BLOCK": 256}, {}),
    "prefix_sum": (prefix_sum, ["*i32", "*i32"], {"BLOCK": 512}, {}),
    "sort_rows": (sort_rows, ["*fp32", "*fp32"], {"BLOCK": 128}, {}),
    "matmul_f16": (
        matmul,
        ["*fp16", "*fp16", "*fp32", "i32", "i32", "i32"],
        {"M": 64, "N": 64, "K": 32, "SUM": tl.float32},
        {"num_stages": 3},
    ),
    "matmul_bf16": (
        matmul,
        ["*bf16", "*bf16", "*fp32", "i32", "i32", "i32"],
        {"M": 64, "N": 32, "K": 64, "SUM": tl.float32},
        {"num_stages": 2},
    ),
    "matmul_s8": (
        matmul,
        ["*i8", "*i8", "*i32", "i32", "i32", "i32"],
        {"M": 64, "N": 64, "K": 64, "SUM": tl.int32},
        {"num_stages": 3},
    ),
    "attention": (
        attention,
        ["*fp16", "*fp16", "*fp16", "*fp32", "i32", "fp32"],
        {"ROWS": 64, "KEYS": 32, "DIM": 64},
        {"num_stages": 2},
    ),
    "matmul_host_descriptors": (
        matmul_host_descriptors,
        ["tensordesc<fp16[64,32]>", "tensordesc<fp16[32,64]>", "tensordesc<fp32[64,64]>", "i32"],
        {"M": 64, "N": 64, "K": 32},
        {"num_stages": 3},
    ),
    "matmul_device_descriptors": (
        matmul_device_descriptors,
        ["*bf16", "*bf16", "*fp32", "i32", "i32", "i32"],
        {"M": 64, "N": 32, "K": 64},
        {"num_stages": 2},
    ),
    "attention_descriptors": (
        attention_descriptors,
        ["tensordesc<fp16[64,64]>", "tensordesc<fp16[32,64]>", "tensordesc<fp16[32,64]>", "tensordesc<fp32[64,64]>", "i32", "fp32"],
        {"ROWS": 64, "KEYS": 32, "DIM": 64},
        {"num_stages": 2},
    ),
}
WARPS = 4


def compile_kernel(name, capability, folder):
    function, types, constants, options = KERNELS[name]
    names = [parameter for parameter in function.arg_names if parameter not in constants]
    signature = dict(zip(names, types, strict=True)) | {constant: "constexpr" for constant in constants}
    # Rows and pointers are multiples of 16, as a caller of the library would find out by itself: so that copies are wide.
    divisible = {"tt.divisibility": 16}
    wide = "k" in names
    attributes = {}
    for index, parameter in enumerate(function.arg_names):
        if signature[parameter].startswith("*") or (wide and signature[parameter] == "i32"):
            attributes[(index,)] = [[key, value] for key, value in divisible.items()]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS, **options})
    facts = {
        "entry": compiled.metadata.name,
        "shared_bytes": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "scratch_bytes": compiled.metadata.global_scratch_size,
        "descriptors": list(compiled.metadata.tensordesc_meta),
    }
    (folder / f"{name}-{capability}.json").write_text(json.dumps(facts))
    (folder / f"{name}-{capability}.ptx").write_text(compiled.asm["ptx"])


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in KERNELS:
        # Tensor descriptors need compute capability 9.0.
        for capability in (90,) if "descriptors" in name else (80, 90):
            compile_kernel(name, capability, folder)


if __name__ == "__main__":
    main()
