"""ARM kernel families: NEON (``smull``), dot products (``sdot``), matrix products (``smmla``)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.isa_generic import (
    generic_multiply_high,
    generic_multiply_wide,
    generic_narrow_weights,
    generic_pair_dot,
    generic_round_shift,
    generic_shift_right,
    generic_weight_sum,
)
from iseg_tvm.kernels.micro_kernel_arm import (
    emit_lane_kernel,
    emit_matrix_kernel,
    emit_reducing_kernel,
    emit_row_lane_kernel,
)
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, load, reinterpret, splat


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


def _neon_narrow16(a: Expr, b: Expr, lanes: int) -> Expr:
    """``sqxtn``, ``sqxtn2``."""
    return _saturated(a, b, "int16", lanes)


def _neon_narrow8(a: Expr, b: Expr, lanes: int) -> Expr:
    """``sqxtn``, ``sqxtn2``."""
    return _saturated(a, b, "int8", lanes)


def _saturated(a: Expr, b: Expr, dtype: str, lanes: int) -> Expr:
    name = f"llvm.aarch64.neon.sqxtn.v{lanes}i{dtype.removeprefix('int')}"
    halves = [T.call_llvm_pure_intrin(f"{dtype}x{lanes}", name, v) for v in (a, b)]
    return T.Shuffle(halves, [T.int32(i) for i in range(2 * lanes)])


def _neon_table_lookup(tables: Buffer, start: Expr, x: Expr, lanes: int) -> Expr:
    """``tbl``, then three ``tbx``: each leaves the lanes whose index is not in its 64 bytes."""
    position = T.Bind(x ^ splat(-128, "int8", lanes))
    earlier: list[Expr] = []
    for quarter in range(4):
        registers = [load(tables, start + (64 * quarter + 16 * i), 16) for i in range(4)]
        index = position - splat(64 * quarter - (256 if quarter > 1 else 0), "int8", lanes)
        name = "tbx4" if quarter else "tbl4"
        result = T.call_llvm_pure_intrin(
            f"int8x{lanes}", f"llvm.aarch64.neon.{name}.v{lanes}i8", *earlier, *registers, index
        )
        earlier = [T.Bind(result)]
    return earlier[0]


def _halves(value: Expr) -> list[Expr]:
    """Both halves of int8x16, widened to int16x8."""
    parts = [T.Shuffle([value], [T.int32(h + i) for i in range(8)]) for h in (0, 8)]
    return [cast(part, "int16", 8) for part in parts]


def _neon_products(left: Expr, right: Expr) -> list[Expr]:
    """``smull`` and ``smull2``: exact products of int8x16, as two int16x8."""
    return [a * b for a, b in zip(_halves(left), _halves(right), strict=True)]


def _add_neighbours(accumulator: Expr, products: Expr) -> Expr:
    """``sadalp``: add neighbouring int16 lanes to the int32 lane they share."""
    added = T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products)
    return accumulator + added


def _neon_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """Any int8 values: -128 * -128 twice would not fit an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_neighbours(_add_neighbours(accumulator, low), high)


def _neon_weight_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``smull``, ``smlal2``, one ``sadalp``: 2 * 128 * 127 = 32512 fits an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_neighbours(accumulator, low + high)


_UPPER_HALF = (0,) * 8 + (255,) * 8


def _neon_flipped_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``smull``, ``smlsl2``, one ``sadalp``, for any int8 values.

    The upper half of ``left`` is packed as ~a = -a - 1 (``_UPPER_HALF``), so that a product is
    subtracted instead of added: 16384 + 16256 fits an int16 lane, 2 * 16384 would not. The
    result is short of the right values beside the upper half, which the accumulators start from.
    """
    low, high = _neon_products(left, right)
    return _add_neighbours(accumulator, low - high)


def _sdot(accumulator: Expr, left: Expr, right: Expr, lane: int) -> Expr:
    """``sdot`` by a lane: four int8 x int8 products into an int32 lane (dot-product extension)."""
    words = T.Shuffle([reinterpret(left, "int32", 4)], [T.int32(lane)] * 4)
    return T.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8",
        accumulator, right, reinterpret(words, "int8", 16),
    )  # fmt: skip


def _smmla(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``smmla``: (2, 8) x (8, 2) int8 products into (2, 2) int32 (i8mm extension)."""
    return T.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", accumulator, left, right
    )


def _usmmla(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``usmmla``: as ``smmla`` with uint8 on the left (i8mm extension)."""
    return T.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.usmmla.v4i32.v16i8", accumulator, left, right
    )


_NARROW = (
    _neon_multiply_high, _neon_shift_right, _neon_round_shift, _neon_narrow16, _neon_narrow8,
    generic_narrow_weights,
)  # fmt: skip
_WIDE = (4, generic_multiply_wide, generic_pair_dot)

# Attention writes its weights row by row and packs the other operands while it runs.
_ATTENTION = Isa(
    "neon", ("neon",), 16, 16, "int8", 0, 2, 2, _neon_flipped_dot, *_NARROW, _neon_weight_sum,
    *_WIDE, micro_kernel=partial(emit_reducing_kernel, unroll=4), choices=(202, 301, 401, 501),
    left_flip=_UPPER_HALF,
)  # fmt: skip
# The order of products that LLVM's in-order scheduling makes the best of (docs/arm.md).
_ATTENTION_INORDER = replace(
    _ATTENTION, name="neon_inorder", rows=4, vectors=1, interleave=True, choices=(401, 301, 201),
    micro_kernel=partial(emit_reducing_kernel, unroll=1, descending=True),
)  # fmt: skip
_ATTENTION_DOTPROD = Isa(
    "neon_dotprod", ("neon", "dotprod"), 16, 4, "int8", 0, 8, 2, _sdot,
    *_NARROW, _udot_weight_sum, *_WIDE,
    micro_kernel=emit_row_lane_kernel, choices=(802, 404, 603),
)  # fmt: skip
_ATTENTION_I8MM = Isa(
    "neon_i8mm", ("neon", "dotprod", "i8mm"), 16, 8, "int8", 0, 8, 2, _smmla,
    *_NARROW, _udot_weight_sum, *_WIDE,
    micro_kernel=emit_matrix_kernel, interleave=True, choices=(1202, 802, 404, 604),
)  # fmt: skip
_ATTENTION_I8MM = replace(
    _ATTENTION_I8MM, weighted=replace(_ATTENTION_I8MM, a_dtype="uint8", dot=_usmmla)
)

FAMILIES = (
    Isa(
        "neon", ("neon",), 16, 16, "int8", 0, 2, 2, _neon_dot,
        *_NARROW, _neon_weight_sum, *_WIDE, _neon_weight_dot,
        table_lookup=_neon_table_lookup, micro_kernel=partial(emit_reducing_kernel, unroll=4),
        choices=(202, 301, 401, 501), attention=_ATTENTION,
    ),
    # Fewer values at once: without register renaming, LLVM orders the block above for latency and
    # spills. Rows lie side by side, so one `ldp` loads two. Of the blocks, orders and scheduling
    # models tried, the best on the Cortex-A53 by llvm-mca.
    Isa(
        "neon_inorder", ("neon",), 16, 16, "int8", 0, 4, 1, _neon_dot,
        *_NARROW, _neon_weight_sum, *_WIDE, _neon_weight_dot,
        table_lookup=_neon_table_lookup, micro_kernel=partial(emit_reducing_kernel, unroll=2),
        interleave=True, choices=(401, 301, 201), attention=_ATTENTION_INORDER,
    ),
    Isa(
        "neon_dotprod", ("neon", "dotprod"), 16, 4, "int8", 0, 12, 2, _sdot,
        *_NARROW, _udot_weight_sum, *_WIDE,
        table_lookup=_neon_table_lookup, micro_kernel=emit_lane_kernel, interleave=True,
        choices=(1202, 802, 803, 404, 406), attention=_ATTENTION_DOTPROD,
    ),
    Isa(
        "neon_i8mm", ("neon", "dotprod", "i8mm"), 16, 8, "int8", 0, 12, 2, _smmla,
        *_NARROW, _udot_weight_sum, *_WIDE,
        table_lookup=_neon_table_lookup, micro_kernel=emit_matrix_kernel, interleave=True,
        choices=(1202, 802, 803, 404, 604), attention=_ATTENTION_I8MM,
    ),
)  # fmt: skip
