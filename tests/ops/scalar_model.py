"""The operators once more, in scalar Python, written from docs/integer_semantics.md alone.

Unbounded integers, lists and loops; no code is shared with ``iseg_tvm`` or ``relay_ops``. Slow on
purpose: it is read against the document line by line, and the NumPy reference is compared with it.
"""

from __future__ import annotations

import math
from typing import Any

Vector = list[int]
Matrix = list[Vector]


def rshr(x: int, s: int) -> int:
    """Section 2: rounding right shift, half up."""
    return x if s == 0 else (x + 2 ** (s - 1)) // 2**s


def mulh(a: int, b: int) -> int:
    """Section 2: rounding multiply-high."""
    return (a * b + 2**14) // 2**15


def sat(x: int, bits: int) -> int:
    """Section 2: saturation to a signed type."""
    return min(max(x, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def _dot(a: Vector, b: Vector) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def linear(x: Matrix, weight: Matrix, bias: Vector) -> Matrix:
    return [[_dot(row, w) + b for w, b in zip(weight, bias, strict=True)] for row in x]


def matmul(a: Matrix, b: Matrix) -> Matrix:
    return [[_dot(row, column) for column in b] for row in a]


def requantize(
    accumulator: Matrix, multiplier: Vector, shift: Vector, post_shift: int, dtype: str
) -> Matrix:
    bits = {"int8": 8, "int16": 16}[dtype]

    def one(acc: int, m: int, s: int) -> int:
        t = sat(rshr(acc, s), 16)
        return sat(rshr(mulh(t, m), post_shift), bits)

    return [
        [one(a, m, s) for a, m, s in zip(row, multiplier, shift, strict=True)]
        for row in accumulator
    ]


def residual_add(skip: Matrix, branch: Matrix, skip_shift: int) -> Matrix:
    return [
        [sat(rshr(h, skip_shift) + z, 16) for h, z in zip(*rows, strict=True)]
        for rows in zip(skip, branch, strict=True)
    ]


def shift_gelu(x: Matrix, table: Matrix) -> Matrix:
    groups = len(table)
    return [
        [table[c // 64 if groups > 1 else 0][value + 128] for c, value in enumerate(row)]
        for row in x
    ]


def layer_norm(
    x: Matrix,
    gamma: Vector,
    beta: Vector,
    eps: int,
    shift: int,
    center: bool,
    dtype: str,
) -> Matrix:
    width = len(gamma)
    f = max(f for f in range(15) if math.isqrt(width * 4**f) < 2**15)
    root = math.isqrt(width * 4**f)

    def one(row: Vector) -> Vector:
        mean = (2 * sum(row) + width) // (2 * width) if center else 0
        c = [min(max(v - mean, -32767), 32767) for v in row]
        r = sum(row) - width * mean if center else 0
        energy = sum(v * v for v in c) - r * r // width + eps
        k = (32 - energy.bit_length()) // 2
        scaled = energy * 4**k if k >= 0 else energy // 4**-k
        a = root * 2**15 // math.isqrt(scaled)
        n = [sat(rshr(v * a - r * a // width, 15 - k), 16) for v in c]
        u = [v * g + b for v, g, b in zip(n, gamma, beta, strict=True)]
        return u if dtype == "int32" else [sat(rshr(v, shift), 8) for v in u]

    return [one(row) for row in x]


def shiftmax_attention(
    qkv: Matrix,
    exp_multiplier: Vector,
    exp_shift: Vector,
    out_multiplier: Vector,
    out_shift: Vector,
    fraction_bits: int,
    post_shift: int,
    polynomial: str,
) -> Matrix:
    heads, total = len(exp_multiplier), len(qkv[0]) // 3
    width = total // heads
    c1, c2 = {"quadratic": (-21926, 5646), "linear": (-16320, 0)}[polynomial]

    def columns(part: int, head: int) -> Matrix:
        start = part * total + head * width
        return [row[start : start + width] for row in qkv]

    def exponential(difference: int, head: int, i: int, j: int) -> int:
        t = sat(rshr(difference, exp_shift[head]), 16)
        p = mulh(t, exp_multiplier[head])
        n, fraction = divmod(p, 2**fraction_bits)
        u = fraction * 2 ** (15 - fraction_bits)
        g = 32640 + mulh(u, c1 + mulh(u, c2))
        return (g // 2**n + (76 * j + 44 * i + 2) % 128) // 2**7

    def one(i: int, query: Vector, keys: Matrix, values: Matrix, head: int) -> Vector:
        x = [_dot(query, key) for key in keys]
        e = [exponential(max(x) - v, head, i, j) for j, v in enumerate(x)]
        s = sum(e)
        b = s.bit_length()
        aligned = s * 2**15 // 2**b
        r = out_multiplier[head] * 2**15 // aligned
        a = 1 if r >= 2**15 else 0
        m = r // 2**a
        w = out_shift[head] + b - a - post_shift - 15
        o = [_dot(e, list(column)) for column in zip(*values, strict=True)]
        return [sat(rshr(mulh(sat(rshr(v, w), 16), m), post_shift), 8) for v in o]

    per_head = [
        [one(i, q, columns(1, h), columns(2, h), h) for i, q in enumerate(columns(0, h))]
        for h in range(heads)
    ]
    return [[v for part in parts for v in part] for parts in zip(*per_head, strict=True)]


def patch_embed(
    image: list[Matrix], weight: Matrix, bias: Vector, patch: int, pad: Vector
) -> Matrix:
    height, width = len(image), len(image[0])

    def activation(y: int, x: int, c: int) -> int:
        return (image[y][x][c] if y < height and x < width else pad[c]) - 128

    patches = [
        [
            activation(py * patch + dy, px * patch + dx, c)
            for dy in range(patch)
            for dx in range(patch)
            for c in range(3)
        ]
        for py in range(math.ceil(height / patch))
        for px in range(math.ceil(width / patch))
    ]
    return linear(patches, weight, bias)


def argmax_upsample(scores: Matrix, patch: int, height: int, width: int) -> Matrix:
    columns = math.ceil(width / patch)
    best = [row.index(max(row)) for row in scores]
    index = [[(y // patch) * columns + x // patch for x in range(width)] for y in range(height)]
    return [[best[p] for p in row] for row in index]


def run(name: str, *tensors: Any, **attributes: Any) -> Any:
    """Apply the operator ``name`` to nested lists."""
    return globals()[name](*tensors, **attributes)
