"""ARM kernel families: NEON (``smull``), dot products (``sdot``), i8mm."""

from __future__ import annotations

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.isa_generic import (
    generic_multiply_high,
    generic_multiply_wide,
    generic_narrow8,
    generic_narrow16,
    generic_narrow_weights,
    generic_pair_dot,
    generic_round_shift,
    generic_shift_right,
    generic_weight_sum,
)
from iseg_tvm.kernels.vector import Expr, T, cast, reinterpret, splat


def _neon_multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
    """``sqrdmulh``; equals the definition as no operand pair is twice -32768."""
    if lanes not in (4, 8):
        return generic_multiply_high(a, b, lanes)
    return T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.aarch64.neon.sqrdmulh.v{lanes}i16", a, b
    )


def _neon_shift_right(g: Expr, i: Expr, lanes: int) -> Expr:
    """``ushl`` by a negative amount, of which the instruction reads one byte."""
    if lanes not in (4, 8):
        return generic_shift_right(g, i, lanes)
    amount = splat(0, "int16", lanes) - T.min(i, splat(15, "int16", lanes))
    return T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.aarch64.neon.ushl.v{lanes}i16", g, amount
    )


def _neon_weight_sum(accumulator: Expr, weights: Expr, lanes: int) -> Expr:
    """``uaddlp``, ``uadalp``."""
    if lanes != 16:
        return generic_weight_sum(accumulator, weights, lanes)
    pairs = T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.uaddlp.v8i16.v16i8", weights)
    quads = T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.uaddlp.v4i32.v8i16", pairs)
    return accumulator + quads


def _udot_weight_sum(accumulator: Expr, weights: Expr, lanes: int) -> Expr:
    """``udot`` with ones."""
    if lanes != 16:
        return generic_weight_sum(accumulator, weights, lanes)
    name = "llvm.aarch64.neon.udot.v4i32.v16i8"
    return T.call_llvm_pure_intrin("int32x4", name, accumulator, weights, splat(1, "uint8", 16))


def _neon_round_shift(x: Expr, shift: int, lanes: int) -> Expr:
    """``srshr``, written as ``srshl`` by a negative constant."""
    if lanes not in (4, 8) or shift == 0:
        return generic_round_shift(x, shift, lanes)
    amount = splat(-shift, "int16", lanes)
    return T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.aarch64.neon.srshl.v{lanes}i16", x, amount
    )


def _neon_products(left: Expr, right: Expr) -> list[Expr]:
    """``smull``: values 0 and 1 of a lane's four, then 2 and 3, as int16x8 of exact products."""
    pairs = reinterpret(right, "int16", 8)
    word = reinterpret(T.broadcast(left, 2), "int16", 4)
    products = []
    for half in range(2):
        chosen = T.Shuffle([pairs], [T.int32(half + 2 * lane) for lane in range(4)])
        same = T.Shuffle([word], [T.int32(half)] * 4)
        wide = [cast(reinterpret(v, "int8", 8), "int16", 8) for v in (same, chosen)]
        products.append(wide[0] * wide[1])
    return products


def _add_pairs(accumulator: Expr, products: Expr) -> Expr:
    """``sadalp``: add neighbouring int16 lanes to the int32 lane they share."""
    added = T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products)
    return accumulator + added


def _neon_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """Any int8 values: -128 * -128 twice would not fit an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_pairs(_add_pairs(accumulator, low), high)


def _neon_weight_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``smull``, ``smlal``, one ``sadalp``: 2 * 128 * 127 = 32512 fits an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_pairs(accumulator, low + high)


def _sdot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``sdot``: four int8 x int8 products into an int32 lane (ARM dot-product extension)."""
    quad = reinterpret(T.broadcast(left, 4), "int8", 16)
    return T.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", accumulator, right, quad
    )


FAMILIES = (
    Isa(
        "neon", ("neon",), 16, 4, "int8", 0, 4, 4,
        _neon_dot, _neon_multiply_high, _neon_shift_right,
        _neon_round_shift, generic_narrow16, generic_narrow8,
        generic_narrow_weights, _neon_weight_sum, 4,
        generic_multiply_wide, generic_pair_dot, _neon_weight_dot,
    ),
    Isa(
        "neon_dotprod", ("neon", "dotprod"), 16, 4, "int8", 0, 6, 4,
        _sdot, _neon_multiply_high, _neon_shift_right,
        _neon_round_shift, generic_narrow16, generic_narrow8,
        generic_narrow_weights, _udot_weight_sum, 4,
        generic_multiply_wide, generic_pair_dot,
    ),
    Isa(
        "neon_i8mm", ("neon", "dotprod", "i8mm"), 16, 4, "int8", 0, 6, 4,
        _sdot, _neon_multiply_high, _neon_shift_right,
        _neon_round_shift, generic_narrow16, generic_narrow8,
        generic_narrow_weights, _udot_weight_sum, 4,
        generic_multiply_wide, generic_pair_dot,
    ),
)  # fmt: skip
