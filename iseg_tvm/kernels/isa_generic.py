"""Kernel family for any CPU: plain arithmetic that LLVM vectorises. Others fall back to it."""

from __future__ import annotations

from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.vector import Expr, T, cast, splat


def generic_multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
    """``(a * b + 2**14) >> 15`` on int16 lanes."""
    wide = cast(a, "int32", lanes) * cast(b, "int32", lanes) + splat(1 << 14, "int32", lanes)
    return cast(wide >> splat(15, "int32", lanes), "int16", lanes)


def generic_exponent_shift(g: Expr, i: Expr, lanes: int) -> Expr:
    """``rshr(g, 7 + i)`` on int16 lanes."""
    shift = cast(i, "int32", lanes)
    half = splat(64, "int32", lanes) << shift
    wide = (cast(g, "int32", lanes) + half) >> (shift + splat(7, "int32", lanes))
    return cast(wide, "int16", lanes)


def _generic_dot(lanes: int) -> Dot:
    """One int16 value a lane."""

    def dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
        wide = T.broadcast(cast(left, "int32", 1), lanes) * cast(right, "int32", lanes)
        return accumulator + wide

    return dot


FAMILIES = (
    Isa(
        "generic", (), 16, 1, "int16", 0, 4, 2,
        _generic_dot(4), generic_multiply_high, generic_exponent_shift,
        registers=16,
    ),
)  # fmt: skip
