"""Kernel family for any CPU: plain arithmetic that LLVM vectorises. Others fall back to it."""

from __future__ import annotations

from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.vector import (
    Expr,
    T,
    cast,
    clamp,
    half_of,
    rounding_shift_right,
    splat,
)


def generic_multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
    """``(a * b + 2**14) >> 15`` on int16 lanes."""
    wide = cast(a, "int32", lanes) * cast(b, "int32", lanes) + splat(1 << 14, "int32", lanes)
    return cast(wide >> splat(15, "int32", lanes), "int16", lanes)


def generic_shift_right(g: Expr, i: Expr, lanes: int) -> Expr:
    """``g >> i`` on int16 lanes, whose bits are taken for uint16."""
    amount = T.min(i, splat(15, "int16", lanes))
    wide = cast(cast(g, "uint16", lanes), "int32", lanes)
    return cast(wide >> cast(amount, "int32", lanes), "int16", lanes)


def generic_round_shift(x: Expr, shift: int, lanes: int) -> Expr:
    """``rshr(x, shift)`` on int16 lanes."""
    return rounding_shift_right(x, shift, "int16", lanes)


def generic_narrow16(a: Expr, b: Expr, lanes: int) -> Expr:
    """Saturate two int32 vectors to one of int16, the second behind the first."""
    halves = [cast(clamp(v, -32768, 32767, "int32", lanes), "int16", lanes) for v in (a, b)]
    return T.Shuffle(halves, [T.int32(i) for i in range(2 * lanes)])


def generic_narrow8(a: Expr, b: Expr, lanes: int) -> Expr:
    """Saturate two int16 vectors to one of int8, the second behind the first."""
    halves = [cast(clamp(v, -128, 127, "int16", lanes), "int8", lanes) for v in (a, b)]
    return T.Shuffle(halves, [T.int32(i) for i in range(2 * lanes)])


def generic_multiply_wide(a: Expr, b: Expr, lanes: int) -> tuple[Expr, Expr]:
    """Exact products of the lower and of the upper half."""
    half = lanes // 2
    low, high = (
        [cast(half_of(v, part, lanes), "int32", half) for v in (a, b)] for part in range(2)
    )
    return low[0] * low[1], high[0] * high[1]


def generic_pair_dot(a: Expr, b: Expr, lanes: int) -> Expr:
    """A product of the lower half plus one of the upper half in every lane."""
    low, high = generic_multiply_wide(a, b, lanes)
    return low + high


def generic_narrow_weights(a: Expr, b: Expr, lanes: int) -> Expr:
    """Truncate two int16 vectors to one of uint8, the second behind the first."""
    halves = [cast(v, "uint8", lanes) for v in (a, b)]
    return T.Shuffle(halves, [T.int32(i) for i in range(2 * lanes)])


def generic_weight_sum(accumulator: Expr, weights: Expr, lanes: int) -> Expr:
    """Widen and add piece by piece."""
    size = int(accumulator.ty.dtype.lanes)
    wide = T.Bind(cast(weights, "int32", lanes))
    for start in range(0, lanes, size):
        piece = T.Shuffle([wide], [T.int32(start + i) for i in range(size)])
        accumulator = accumulator + piece
    return accumulator


def _generic_dot(lanes: int) -> Dot:
    """One int16 value a lane."""

    def dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
        wide = T.broadcast(cast(left, "int32", 1), lanes) * cast(right, "int32", lanes)
        return accumulator + wide

    return dot


FAMILIES = (
    Isa(
        "generic", (), 16, 1, "int16", 0, 4, 2,
        _generic_dot(4), generic_multiply_high, generic_shift_right,
        generic_round_shift, generic_narrow16, generic_narrow8, generic_narrow_weights,
        generic_weight_sum, 4,
        generic_multiply_wide, generic_pair_dot,
        registers=16,
    ),
)  # fmt: skip
