"""One row of Shiftmax: shift exponential, row sum and its reciprocal scale.

Definition and step numbers: ``relay_ops/shiftmax_attention.py``; step 1 belongs to the product.
Keys are handled in groups: the accumulator vectors whose weights fill one vector of left operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import packed_order, store_left
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    T,
    cast,
    clamp,
    constant_vector,
    load,
    reinterpret,
    scratch,
    splat,
    spread,
    store,
)
from relay_ops.shiftmax_attention import DITHER_QUERY, PEAK, dither

DITHER_PERIOD = 32
"""Keys after which ``dither`` repeats."""
TABLE_SIZE = 64

PARAMETERS = ("exp_multiplier", "exp_shift", "out_multiplier", "out_shift")
"""Columns of the per-head int32 parameter table."""


@dataclass(frozen=True)
class ShiftExponential:
    """Compile-time constants of steps 3 to 6."""

    fraction_bits: int
    c1: int
    c2: int

    @property
    def has_table(self) -> bool:
        """Whether :meth:`table` holds g for every fraction."""
        return 1 << self.fraction_bits <= TABLE_SIZE

    def table(self) -> np.ndarray:
        """Values of step 5's g by the exponent's low bits; int16 (64,)."""
        bits = self.fraction_bits
        u = (np.arange(TABLE_SIZE, dtype=np.int64) % (1 << bits)) << (15 - bits)
        inner = self.c1 + ((u * self.c2 + (1 << 14)) >> 15)
        return (PEAK + ((u * inner + (1 << 14)) >> 15)).astype(np.int16)


@dataclass(frozen=True)
class RowScale:
    """Per-row requantization of step 10, written by :func:`emit_row`: int16 and int32 buffers."""

    multiplier: Buffer
    shift: Buffer


@dataclass(frozen=True)
class Tables:
    """Constants: of a head (int32, :data:`PARAMETERS`), of the dithering, of the exponential."""

    heads: Buffer
    dither: Buffer
    exponential: Buffer

    def of_head(self, head: Expr) -> list[Expr]:
        """Scalars in the order of :data:`PARAMETERS`."""
        count = len(PARAMETERS)
        return [T.Bind(self.heads[head * count + i]) for i in range(count)]


def group_vectors(isa: Isa) -> int:
    """Accumulator vectors whose weights fill one vector of left operands."""
    return 2 if isa.a_dtype == "int16" else 4


def group_columns(isa: Isa) -> int:
    """Keys of a group."""
    return group_vectors(isa) * isa.lanes


def row_stride(isa: Isa, tokens: int) -> int:
    """Keys of a row, rounded up to whole groups."""
    return -(-tokens // group_columns(isa)) * group_columns(isa)


def dither_table(isa: Isa) -> np.ndarray:
    """Step 6's summands of query 0 in the order of the lanes, one period; int16."""
    columns = group_columns(isa)
    order = packed_order(isa, group_vectors(isa), 2)
    starts = np.arange(0, max(DITHER_PERIOD, columns), columns)
    return dither(0, starts[:, None] + order).astype(np.int16).reshape(-1)


@dataclass(frozen=True)
class RowOperands:
    """What steps 2 and 3 need in every lane: ``top`` with the rounding constant of ``shift``."""

    top: Expr
    shift: Expr
    multiplier: Expr


def emit_power(
    isa: Isa, constants: ShiftExponential, t: Expr, multiplier: Expr, table: Buffer
) -> tuple[Expr, Expr]:
    """Steps 3 to 5: (g, n) of int16 lanes; ``table`` has the values of g."""
    lanes, bits = 2 * isa.lanes, constants.fraction_bits
    p = T.Bind(isa.multiply_high(t, multiplier, lanes))
    n = T.Bind(p >> splat(bits, "int16", lanes))
    if isa.lookup64 is not None and constants.has_table:
        return T.Bind(isa.lookup64(table, p, lanes)), n
    mask = splat(((1 << bits) - 1) << (15 - bits), "int16", lanes)
    u = T.Bind((p << splat(15 - bits, "int16", lanes)) & mask)
    inner = splat(constants.c1, "int16", lanes)
    if constants.c2:
        product = isa.multiply_high(u, splat(constants.c2, "int16", lanes), lanes)
        inner = T.Bind(inner + product)
    return T.Bind(splat(PEAK, "int16", lanes) + isa.multiply_high(u, inner, lanes)), n


def emit_exponential(
    isa: Isa, constants: ShiftExponential, logits: Sequence[Expr], row: RowOperands,
    summand: Expr, table: Buffer,
) -> Expr:  # fmt: skip
    """Steps 2 to 6: two vectors of int32 logits to weights 0..255 as int16 lanes."""
    lanes = 2 * isa.lanes
    differences = [T.Bind((row.top - x) >> row.shift) for x in logits]
    t = T.Bind(isa.narrow16(differences[0], differences[1], isa.lanes))
    g, n = emit_power(isa, constants, t, row.multiplier, table)
    shifted = isa.shift_right(g, n, lanes)
    return T.Bind((shifted + summand) >> splat(7, "int16", lanes))


def emit_row(
    isa: Isa, constants: ShiftExponential, tokens: int, query: Expr, logits: Buffer, tops: Buffer,
    row: Expr, weights: Buffer, tables: tuple[Buffer, Buffer],
    per_head: Sequence[Expr], post_shift: int, scale: RowScale,
) -> None:  # fmt: skip
    """Steps 2 to 9 for one query.

    Parameters
    ----------
    query : its index among all tokens
    logits, tops, row : row of the block; ``tops`` holds the maxima of its lanes
    isa : of the product with the values
    weights : where the weights go, in the left-operand format
    tables : :func:`dither_table` and :meth:`ShiftExponential.table`
    per_head : int32 scalars exp_multiplier, exp_shift, out_multiplier, out_shift
    scale : receives the row's multiplier and shift
    """
    exp_multiplier, exp_shift, out_multiplier, out_shift = per_head
    lanes, columns, stride = isa.lanes, group_columns(isa), row_stride(isa, tokens)
    top = T.call_llvm_pure_intrin(
        "int32", f"llvm.vector.reduce.smax.v{lanes}i32", load(tops, row * lanes, lanes)
    )
    operands = RowOperands(
        T.Bind(spread(T.Bind(top + ((T.int32(1) << exp_shift) >> 1)), lanes)),
        T.Bind(spread(exp_shift, lanes)),
        T.Bind(spread(cast(exp_multiplier, "int16", 1), 2 * lanes)),
    )
    summands = _row_summands(isa, tables[0], query)
    sums = scratch(lanes, "int32")
    store(sums, 0, splat(0, "int32", lanes), lanes)

    def group(index: Expr, keep: np.ndarray | None) -> None:
        start = row * stride + index * columns
        logit = [T.Bind(load(logits, start + v, lanes)) for v in range(0, columns, lanes)]
        values = [
            emit_exponential(
                isa, constants, logit[2 * h : 2 * h + 2], operands, summands(index, h), tables[1]
            )
            for h in range(len(logit) // 2)
        ]
        packed = values[0]
        if len(values) == 2:
            packed = T.Bind(isa.narrow_weights(values[0], values[1], 2 * lanes))
        value = _left(isa, packed)
        store_left(isa, weights, row, index * columns, stride, value, columns)
        if keep is not None:
            packed = T.Bind(packed & constant_vector(keep))
        store(sums, 0, isa.weight_sum(load(sums, 0, lanes), packed, columns), lanes)

    full, rest = divmod(tokens, columns)
    if full:
        with T.serial(0, full) as index:
            group(index, None)
    if rest:
        dtype = np.int16 if isa.a_dtype == "int16" else np.uint8
        real = np.arange(columns) < rest
        group(T.int32(full), np.where(real, np.iinfo(dtype).max, 0).astype(dtype))
    total = T.call_llvm_pure_intrin(
        "int32", f"llvm.vector.reduce.add.v{lanes}i32", load(sums, 0, lanes)
    )
    emit_scale(T.Bind(total), out_multiplier, out_shift, post_shift, scale, row)


def packed_zero_weight(isa: Isa) -> np.ndarray:
    """A group of zero weights in the left-operand format, uint8 (k_group,); int8 are 128 less."""
    flip = np.array(isa.left_flip or (0,) * isa.k_group, np.uint8)
    return flip ^ np.uint8(128) if isa.a_dtype == "int8" else flip


def _left(isa: Isa, packed: Expr) -> Expr:
    """Weights in the left-operand format."""
    zero, columns = packed_zero_weight(isa), group_columns(isa)
    if zero.any():
        packed = packed ^ constant_vector(np.resize(zero, columns))
    return reinterpret(packed, "int8", columns) if isa.a_dtype == "int8" else packed


def _row_summands(isa: Isa, table: Buffer, query: Expr) -> Callable[[Expr, int], Expr]:
    """Step 6's summands of one query: function (group, half of the group) -> int16 vector."""
    lanes, columns = 2 * isa.lanes, group_columns(isa)
    phases = max(1, DITHER_PERIOD // columns)
    offset = T.Bind(spread(cast((query * DITHER_QUERY) & 127, "int16", 1), lanes))
    mask = splat(127, "int16", lanes)
    vectors = [
        T.Bind((load(table, n * lanes, lanes) + offset) & mask)
        for n in range(phases * columns // lanes)
    ]
    if phases == 1:
        return lambda index, half: vectors[half]
    shifted = scratch(phases * columns, "int16")
    for n, vector in enumerate(vectors):
        store(shifted, n * lanes, vector, lanes)
    return lambda index, half: load(shifted, (index % phases) * columns + half * lanes, lanes)


def emit_scale(
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


def emit_normalise(
    isa: Isa, post_shift: int, vectors: Sequence[Expr], shift: Expr, multiplier: Expr
) -> Expr:
    """Step 10 on a group of vectors: int8 in memory order."""
    lanes = isa.lanes
    half = T.Bind(spread((T.int32(1) << shift) >> 1, lanes))
    amount = T.Bind(spread(shift, lanes))
    shifted = [T.Bind((v + half) >> amount) for v in vectors]
    if len(shifted) == 1:
        narrow = [cast(clamp(shifted[0], -32768, 32767, "int32", lanes), "int16", lanes)]
    else:
        pairs = zip(shifted[::2], shifted[1::2], strict=True)
        narrow = [isa.narrow16(a, b, lanes) for a, b in pairs]
    width = min(2, len(shifted)) * lanes
    factor = T.Bind(spread(multiplier, width))
    products = [T.Bind(isa.multiply_high(T.Bind(n), factor, width)) for n in narrow]
    rounded = [T.Bind(isa.round_shift(product, post_shift, width)) for product in products]
    if len(rounded) == 2:
        return T.Bind(isa.narrow8(rounded[0], rounded[1], width))
    return cast(clamp(rounded[0], -128, 127, "int16", width), "int8", width)
