"""Fused Shiftmax attention (definition: ``relay_ops/shiftmax_attention.py``).

Keys and values are packed once per head. Then every (head, block of queries) is one parallel task:
logits of the block for all keys (int32, L2-resident), shift exponential to the left-operand
format, product with the values, normalisation by the row sum. The N x N matrix is never in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.micro_kernel import Accumulators, emit_micro_kernel, word_dtype
from iseg_tvm.kernels.packing import (
    PanelLayout,
    emit_pack_left_row,
    emit_pack_right,
    emit_right_sums,
    round_up,
)
from iseg_tvm.kernels.shiftmax import RowScale, ShiftExponential, emit_row
from iseg_tvm.kernels.tiles import emit_tiles, store_vector
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    cast,
    clamp,
    flat,
    kernel,
    load,
    rounding_shift_right,
    scratch,
    spread,
    store,
)
from relay_ops.operator import Lowering, LoweringContext, Space
from relay_ops.shiftmax_attention import POLYNOMIALS, check_constants

PARAMETERS = ("exp_multiplier", "exp_shift", "out_multiplier", "out_shift")
"""Columns of the per-head int32 parameter table."""


@dataclass(frozen=True)
class Attention:
    """Shapes and blocking.

    Attributes
    ----------
    block_rows : queries a task handles, a multiple of ``isa.rows``
    """

    isa: Isa
    tokens: int
    heads: int
    head_width: int
    block_rows: int
    exponential: ShiftExponential
    post_shift: int

    @property
    def width(self) -> int:
        """Model width: heads * head width."""
        return self.heads * self.head_width

    @property
    def keys(self) -> PanelLayout:
        """Right operand of the logits, one head."""
        return PanelLayout(self.isa, self.tokens, self.head_width)

    @property
    def values(self) -> PanelLayout:
        """Right operand of the weighted sum, one head."""
        return PanelLayout(self.isa, self.head_width, self.tokens)

    @property
    def weight_offset(self) -> int:
        """Subtracted from the uint8 exponentials where left operands are int8."""
        return 128 if self.isa.a_dtype == "int8" else 0

    @property
    def blocks(self) -> int:
        """Query blocks of one head."""
        return -(-self.tokens // self.block_rows)


@dataclass(frozen=True)
class PackedOperand:
    """Keys or values of all heads in panel order.

    Attributes
    ----------
    sums : int32, the correction of each column for offset left operands; None if there is none
    """

    layout: PanelLayout
    panels: Buffer
    sums: Buffer | None

    def accumulate(
        self, words: Buffer, row: Expr, rows: int, head: Expr, panel: Expr, width: int
    ) -> Accumulators:
        """Product of packed left rows with one panel of a head."""
        layout, isa = self.layout, self.layout.isa
        stride = layout.depth // isa.k_group
        start = head * layout.size + layout.offset(panel)
        return emit_micro_kernel(
            isa, isa.dot, words, row * stride, stride, rows, self.panels, start, width, layout.depth
        )

    def vector(self, accumulator: Buffer, head: Expr, panel: Expr, v: int) -> Expr:
        """Lanes from ``v`` of an accumulated row, corrected."""
        layout, isa = self.layout, self.layout.isa
        value = load(accumulator, v, isa.lanes)
        if self.sums is None:
            return value
        column = head * layout.padded_columns + panel * isa.columns + v
        return value + load(self.sums, column, isa.lanes)


@dataclass(frozen=True)
class PackedHeads:
    """Right operands of the two products."""

    keys: PackedOperand
    values: PackedOperand


def build_attention(shape: Attention, name: str) -> PrimFunc:
    """``(qkv, per-head parameters int32 (H, 4), out)``."""
    parameters = [
        ("qkv", (shape.tokens, 3 * shape.width), "int8"),
        ("parameters", (shape.heads, len(PARAMETERS)), "int32"),
        ("out", (shape.tokens, shape.width), "int8"),
    ]
    with kernel(name, parameters) as (builder, buffers):
        qkv = flat(buffers[0], "int8", shape.tokens * 3 * shape.width)
        table = flat(buffers[1], "int32", shape.heads * len(PARAMETERS))
        out = flat(buffers[2], "int8", shape.tokens * shape.width)
        packed = _emit_packing(shape, qkv)
        with T.parallel(0, shape.heads * shape.blocks) as task:
            head, block = T.Bind(task // shape.blocks), T.Bind(task % shape.blocks)
            _emit_block(shape, qkv, table, packed, head, block, out)
    return builder.get()


def _emit_packing(shape: Attention, qkv: Buffer) -> PackedHeads:
    """Pack keys and values, one task a head."""
    heads, stride = shape.heads, 3 * shape.width
    # (layout, position of the block in qkv, strides of columns and inner values, correction)
    parts = (
        (shape.keys, shape.width, stride, 1, -shape.isa.a_offset),
        (shape.values, 2 * shape.width, 1, stride, shape.weight_offset),
    )
    operands = [
        PackedOperand(
            layout,
            scratch(heads * layout.size, "int8"),
            scratch(heads * layout.padded_columns, "int32") if factor else None,
        )
        for layout, _, _, _, factor in parts
    ]
    with T.parallel(0, heads) as head:
        for operand, (layout, offset, column, inner, factor) in zip(operands, parts, strict=True):
            start = T.Bind(head * shape.head_width + offset)
            base = head * layout.size
            emit_pack_right(layout, operand.panels, base, qkv, start, column, inner)
            if operand.sums is not None:
                first = head * layout.padded_columns
                emit_right_sums(layout, operand.sums, first, qkv, start, column, inner, factor)
    return PackedHeads(*operands)


def _emit_block(
    shape: Attention, qkv: Buffer, table: Buffer, packed: PackedHeads, head: Expr, block: Expr,
    out: Buffer,
) -> None:  # fmt: skip
    isa, keys, values = shape.isa, shape.keys, shape.values
    rows = shape.block_rows
    queries = scratch(rows * keys.depth, isa.a_dtype)
    logits = scratch(rows * keys.padded_columns, "int32")
    weights = scratch(rows * values.depth, isa.a_dtype)
    scale = RowScale(scratch(rows, "int16"), scratch(rows, "int32"))
    first = T.Bind(block * rows)
    present = T.Bind(T.min(shape.tokens - first, rows))
    rest = shape.tokens % rows % isa.rows
    is_last = block == shape.blocks - 1
    with T.serial(0, present) as row:
        start = (first + row) * (3 * shape.width) + head * shape.head_width
        emit_pack_left_row(isa, queries, row, keys.depth, qkv, start, shape.head_width)
    _emit_logits(shape, queries, packed, head, present, rest, is_last, logits)
    per_head = [T.Bind(table[head * len(PARAMETERS) + i]) for i in range(len(PARAMETERS))]
    with T.serial(0, present) as row:
        emit_row(
            isa, shape.exponential, shape.tokens, logits, row * keys.padded_columns, weights,
            row * values.depth, shape.weight_offset, per_head, shape.post_shift, scale, row,
        )  # fmt: skip
    _emit_output(shape, weights, packed, head, first, present, rest, is_last, scale, out)


def _emit_logits(
    shape: Attention, queries: Buffer, packed: PackedHeads, head: Expr, present: Expr, rest: int,
    is_last: Expr, logits: Buffer,
) -> None:  # fmt: skip
    """``logits[row, j] = q . k_j`` for the block's rows and all keys."""
    isa, keys = shape.isa, shape.keys
    words = flat(queries, word_dtype(isa), shape.block_rows * keys.depth // isa.k_group)

    def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
        accumulators = packed.keys.accumulate(words, row, rows, head, panel, width)
        for r, accumulator in enumerate(accumulators):
            base = (row + r) * keys.padded_columns + panel * isa.columns
            for v in range(0, width, isa.lanes):
                value = packed.keys.vector(accumulator, head, panel, v)
                store(logits, base + v, value, isa.lanes)

    emit_tiles(keys, present, rest, is_last, tile)


def _emit_output(
    shape: Attention, weights: Buffer, packed: PackedHeads, head: Expr, first: Expr, present: Expr,
    rest: int, is_last: Expr, scale: RowScale, out: Buffer,
) -> None:  # fmt: skip
    """Weighted sum of the values, normalised per row, to int8."""
    isa, values = shape.isa, shape.values
    words = flat(weights, word_dtype(isa), shape.block_rows * values.depth // isa.k_group)

    def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
        accumulators = packed.values.accumulate(words, row, rows, head, panel, width)
        column = head * shape.head_width + panel * isa.columns
        for r, accumulator in enumerate(accumulators):
            shift, multiplier = (T.Bind(b[row + r]) for b in (scale.shift, scale.multiplier))
            half = T.Bind((T.int32(1) << shift) >> 1)
            base = (first + row + r) * shape.width + column
            for v in range(0, width, isa.lanes):
                value = packed.values.vector(accumulator, head, panel, v)
                result = _emit_normalise(shape, value, half, shift, multiplier)
                store_vector(out, base + v, result, "int8", isa.lanes, real - v)

    emit_tiles(values, present, rest, is_last, tile)


def _emit_normalise(
    shape: Attention, value: Expr, half: Expr, shift: Expr, multiplier: Expr
) -> Expr:
    """Step 10 of the definition on one vector; ``half`` is the rounding constant of ``shift``."""
    isa, lanes = shape.isa, shape.isa.lanes
    shifted = (value + spread(half, lanes)) >> spread(shift, lanes)
    narrow = T.Bind(cast(clamp(shifted, -32768, 32767, "int32", lanes), "int16", lanes))
    product = T.Bind(isa.multiply_high(narrow, spread(multiplier, lanes), lanes))
    rounded = rounding_shift_right(product, shape.post_shift, "int16", lanes)
    return cast(clamp(T.Bind(rounded), -128, 127, "int16", lanes), "int8", lanes)


def default_block_rows(isa: Isa, tokens: int) -> int:
    """Queries of a task: logits and exponentials of the block fit half of a 512 KB L2."""
    row_bytes = tokens * (4 + np.dtype(isa.a_dtype).itemsize)
    by_cache = max(isa.rows, 160 * 1024 // row_bytes // isa.rows * isa.rows)
    return min(by_cache, round_up(tokens, isa.rows), 8 * isa.rows)


def attention_space(context: LoweringContext) -> Space:
    """What a tuner may choose: register block of both products, and queries of a task."""
    tokens = context.types["qkv"].shape[0]
    default = default_block_rows(context.isa, tokens)
    others = [n for n in (4, 8, 12, 16, 24, 32, 48, 64, 96) if n < tokens]
    return {
        "block": context.isa.blocks(),
        "block_rows": [default, *(n for n in others if n != default)],
    }


def lower_attention(context: LoweringContext) -> Lowering:
    """Lower ``iseg.shiftmax_attention``."""
    tokens, columns = context.types["qkv"].shape
    constants = [context.constant(name) for name in PARAMETERS]
    post_shift = int(context.attributes["post_shift"])
    check_constants(*constants, post_shift=post_shift, tokens=tokens)
    heads = constants[0].shape[0]
    isa = context.isa.with_block(context.schedule.get("block", context.isa.block))
    block_rows = context.schedule.get("block_rows", default_block_rows(isa, tokens))
    shape = Attention(
        isa=isa,
        tokens=tokens,
        heads=heads,
        head_width=columns // (3 * heads),
        block_rows=round_up(block_rows, isa.rows),
        exponential=ShiftExponential(
            int(context.attributes["fraction_bits"]),
            *POLYNOMIALS[context.attributes["polynomial"]],
        ),
        post_shift=post_shift,
    )
    table = np.stack([c.astype(np.int32) for c in constants], axis=1)
    return Lowering(build_attention(shape, "attention"), ["qkv", table], context.result)
