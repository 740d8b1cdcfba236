"""One row of Shiftmax: maximum, shift exponential, row sum and its reciprocal scale.

Definition and step numbers: ``relay_ops/shiftmax_attention.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    T,
    cast,
    clamp,
    load,
    scratch,
    spans,
    splat,
    spread,
    store,
)
from relay_ops.shiftmax_attention import PEAK

INT32_MIN = -(2**31)
LAST_EXPONENT = 9
"""From here on ``rshr(g, 7 + i)`` is 0 for every g."""


@dataclass(frozen=True)
class ShiftExponential:
    """Compile-time constants of steps 3 to 6."""

    fraction_bits: int
    c1: int
    c2: int


@dataclass(frozen=True)
class RowScale:
    """Per-row requantization of step 10, written by :func:`emit_row`: int16 and int32 buffers."""

    multiplier: Buffer
    shift: Buffer


def emit_exponential(
    isa: Isa, constants: ShiftExponential, x: Expr, offset: Expr, shift: Expr, multiplier: Expr,
    lanes: int,
) -> Expr:  # fmt: skip
    """Steps 2 to 6: int32 logits to 0..255 as int16 lanes.

    ``offset`` is minus the row maximum plus the rounding constant of ``shift``; the difference is
    at least -2**22, so the sum cannot wrap.
    """
    bits = constants.fraction_bits
    scaled = (x + spread(offset, lanes)) >> spread(shift, lanes)
    # The upper bound never binds; with it LLVM takes vpackssdw for the whole step.
    t = T.Bind(cast(clamp(scaled, -32768, 32767, "int32", lanes), "int16", lanes))
    p = T.Bind(splat(0, "int16", lanes) - isa.multiply_high(t, spread(multiplier, lanes), lanes))
    i = T.min(p >> splat(bits, "int16", lanes), splat(LAST_EXPONENT, "int16", lanes))
    fraction = p & splat((1 << bits) - 1, "int16", lanes)
    u = T.Bind(fraction << splat(15 - bits, "int16", lanes))
    inner = splat(constants.c1, "int16", lanes)
    if constants.c2:
        inner = inner + isa.multiply_high(u, splat(constants.c2, "int16", lanes), lanes)
    g = splat(PEAK, "int16", lanes) + isa.multiply_high(u, T.Bind(inner), lanes)
    return isa.exponent_shift(T.Bind(g), T.Bind(i), lanes)


def _emit_maximum(isa: Isa, count: int, logits: Buffer, start: Expr) -> Expr:
    """Step 1: maximum of ``count`` int32 values."""
    lanes = isa.lanes
    full, tail = spans(count, lanes)
    best = scratch(lanes, "int32")
    store(best, 0, splat(INT32_MIN, "int32", lanes), lanes)
    with T.serial(0, full) as j:
        store(best, 0, T.max(load(best, 0, lanes), load(logits, start + j * lanes, lanes)), lanes)
    top = scratch(1, "int32")
    store(top, 0, T.int32(INT32_MIN), 1)
    for lane in range(lanes):
        store(top, 0, T.max(top[0], best[lane]), 1)
    with T.serial(tail, count) as j:
        store(top, 0, T.max(top[0], logits[start + j]), 1)
    return T.Bind(top[0])


def emit_row(
    isa: Isa, constants: ShiftExponential, count: int, logits: Buffer, start: Expr,
    weights: Buffer, weight_start: Expr, weight_offset: int, per_head: Sequence[Expr],
    post_shift: int, scale: RowScale, row: Expr,
) -> None:  # fmt: skip
    """Steps 1 to 9 for one query.

    Parameters
    ----------
    count : keys; ``logits[start : start + count]`` is the row
    weights, weight_start : where the exponentials go, in the left-operand format
    weight_offset : subtracted from them (128 for int8 left operands)
    per_head : int32 scalars exp_multiplier, exp_shift, out_multiplier, out_shift
    scale, row : receives the row's multiplier and shift
    """
    exp_multiplier, exp_shift, out_multiplier, out_shift = per_head
    top = _emit_maximum(isa, count, logits, start)
    multiplier = T.Bind(cast(exp_multiplier, "int16", 1))
    offset = T.Bind(((T.int32(1) << exp_shift) >> 1) - top)
    lanes = isa.vector_bytes // 2
    full, tail = spans(count, lanes)
    sums, total = scratch(lanes, "int32"), scratch(1, "int32")
    store(sums, 0, splat(0, "int32", lanes), lanes)
    store(total, 0, T.int32(0), 1)

    def exponentials(position: Expr, width: int) -> Expr:
        x = load(logits, start + position, width)
        e = T.Bind(emit_exponential(isa, constants, x, offset, exp_shift, multiplier, width))
        packed = cast(e - splat(weight_offset, "int16", width), isa.a_dtype, width)
        store(weights, weight_start + position, packed, width)
        return cast(e, "int32", width)

    with T.serial(0, full) as j:
        store(sums, 0, load(sums, 0, lanes) + exponentials(j * lanes, lanes), lanes)
    with T.serial(tail, count) as j:
        store(total, 0, total[0] + exponentials(j, 1), 1)
    for lane in range(lanes):
        store(total, 0, total[0] + sums[lane], 1)
    _emit_scale(T.Bind(total[0]), out_multiplier, out_shift, post_shift, scale, row)


def _emit_scale(
    total: Expr, multiplier: Expr, shift: Expr, post_shift: int, scale: RowScale, row: Expr
) -> None:
    """Steps 8 and 9: the only division, one a row."""
    bits = T.Bind(T.int32(32) - T.clz(total))
    aligned = (total << T.max(15 - bits, 0)) >> T.max(bits - 15, 0)
    ratio = T.Bind(T.truncdiv(multiplier << 15, aligned))
    extra = T.Bind(ratio >> 15)
    large = T.Bind(T.min(extra, 1))
    store(scale.multiplier, row, cast(ratio >> large, "int16", 1), 1)
    store(scale.shift, row, shift + bits - large - post_shift - 15, 1)
