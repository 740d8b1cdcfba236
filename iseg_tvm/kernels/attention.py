"""Fused Shiftmax attention (definition: ``relay_ops/shiftmax_attention.py``).

Keys and values are packed once per head. Then every (head, block of queries) is one parallel task:
logits of the block for all keys and the maximum of each lane (L2-resident), weights in the
left-operand format, product with the values, normalisation by the row sum. The N x N matrix is
never in memory.

Keys and values are packed in the order that the saturating packs undo, so that weights, their
summands and the result stand in memory order and no instruction moves lanes across 128 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np

from iseg_tvm.kernels.attention_packing import (
    PADDING_LOGIT,
    KeyLayout,
    PackedOperand,
    allocate,
    emit_pack_keys,
    emit_pack_values,
)
from iseg_tvm.kernels.attention_shape import AttentionShape
from iseg_tvm.kernels.attention_tiles import build_tile_attention
from iseg_tvm.kernels.attention_tiles_logits import TILE_BLOCK_ROWS, TileAttention
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.micro_kernel import word_dtype
from iseg_tvm.kernels.packing import PanelLayout, emit_pack_left_row, round_up
from iseg_tvm.kernels.shiftmax import (
    PARAMETERS,
    RowScale,
    ShiftExponential,
    Tables,
    dither_table,
    emit_normalise,
    emit_row,
    group_vectors,
    packed_zero_weight,
    row_stride,
)
from iseg_tvm.kernels.tiles import emit_tiles, store_vector
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    flat,
    kernel,
    load,
    scratch,
    splat,
    store,
    when,
)
from relay_ops.operator import Lowering, LoweringContext, Space
from relay_ops.shiftmax_attention import POLYNOMIALS, check_constants


@dataclass(frozen=True)
class Attention(AttentionShape):
    """Layouts of its right operands; ``block_rows`` is a multiple of both products' rows."""

    @property
    def keys(self) -> KeyLayout:
        """Right operand of the logits, one head."""
        return KeyLayout(self.isa, self.tokens, self.head_width, key_group(self.isa))

    @property
    def values(self) -> PanelLayout:
        """Right operand of the weighted sum, one head."""
        isa = value_block(self.isa, self.head_width)
        vectors = -(-self.head_width // isa.lanes)
        group = max(g for g in (1, 2, 4) if isa.vectors % g == 0 and vectors % g == 0)
        return PanelLayout(isa, self.head_width, self.tokens, group)

    @property
    def stride(self) -> int:
        """Keys of a row of logits and of weights, padding included."""
        return row_stride(self.isa, self.tokens)


@dataclass(frozen=True)
class PackedHeads:
    """Right operands of the two products."""

    keys: PackedOperand
    values: PackedOperand


def build_attention(shape: Attention, name: str) -> PrimFunc:
    """``(qkv, per-head parameters int32 (H, 4), dither table, exponential table, out)``."""
    parameters = [
        ("qkv", (shape.tokens, 3 * shape.width), "int8"),
        ("parameters", (shape.heads, len(PARAMETERS)), "int32"),
        ("dither", dither_table(shape.isa).shape, "int16"),
        ("exponential", shape.exponential.table().shape, "int16"),
        ("out", (shape.tokens, shape.width), "int8"),
    ]
    with kernel(name, parameters) as (builder, buffers):
        qkv = flat(buffers[0], "int8", shape.tokens * 3 * shape.width)
        per_head = flat(buffers[1], "int32", shape.heads * len(PARAMETERS))
        tables = Tables(per_head, buffers[2], buffers[3])
        out = flat(buffers[4], "int8", shape.tokens * shape.width)
        packed = _emit_packing(shape, qkv)
        with T.parallel(0, shape.tasks) as task:
            head, block = shape.of_task(task)
            _emit_block(shape, qkv, tables, packed, head, block, out)
    return builder.get()


def _emit_packing(shape: Attention, qkv: Buffer) -> PackedHeads:
    """Pack keys and values, two tasks a head."""
    stride = 3 * shape.width
    keys = allocate(shape.keys, shape.heads, True)
    corrected = bool(packed_zero_weight(shape.values.isa).any())
    values = allocate(shape.values, shape.heads, corrected)
    with T.parallel(0, 2 * shape.heads) as task:
        head = T.Bind(task // 2)
        start = T.Bind(head * shape.head_width)
        with when(task % 2 == 0):
            size = shape.tokens * stride
            emit_pack_keys(keys, head, qkv, size, start + shape.width, stride)
        with when(task % 2 == 1):
            emit_pack_values(values, head, qkv, start + 2 * shape.width, stride)
    return PackedHeads(keys, values)


def _emit_block(
    shape: Attention, qkv: Buffer, tables: Tables, packed: PackedHeads, head: Expr, block: Expr,
    out: Buffer,
) -> None:  # fmt: skip
    isa, keys = shape.isa, shape.keys
    rows = shape.block_rows
    queries = scratch(rows * keys.depth, isa.a_dtype)
    logits = scratch(rows * shape.stride, "int32")
    tops = scratch(rows * isa.lanes, "int32")
    weights = scratch(rows * shape.stride, shape.values.isa.a_dtype)
    scale = RowScale(scratch(rows, "int16"), scratch(rows, "int32"))
    first = T.Bind(block * rows)
    present = T.Bind(T.min(shape.tokens - first, rows))
    is_last = block == shape.blocks - 1
    per_head = tables.of_head(head)
    with T.serial(0, present) as row:
        start = (first + row) * (3 * shape.width) + head * shape.head_width
        emit_pack_left_row(isa, queries, row, keys.depth, qkv, start, shape.head_width)
        lanes = isa.lanes
        store(tops, row * lanes, splat(PADDING_LOGIT, "int32", lanes), lanes)
    _emit_logits(shape, queries, packed, head, present, is_last, logits, tops)
    with T.serial(0, present) as row:
        emit_row(
            shape.values.isa, shape.exponential, shape.tokens, first + row, logits, tops, row,
            weights, (tables.dither, tables.exponential), per_head, shape.post_shift, scale,
        )  # fmt: skip
    _emit_output(shape, weights, packed, head, first, present, is_last, scale, out)


def _emit_logits(
    shape: Attention, queries: Buffer, packed: PackedHeads, head: Expr, present: Expr,
    is_last: Expr, logits: Buffer, tops: Buffer,
) -> None:  # fmt: skip
    """Step 1 for the block's rows and all keys; ``tops`` is the maximum of each lane so far."""
    isa, keys = shape.isa, shape.keys
    lanes, depth = isa.lanes, keys.depth // isa.k_group
    words = flat(queries, word_dtype(isa), shape.block_rows * depth)
    rest = shape.tokens % shape.block_rows % isa.rows

    def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
        accumulators = packed.keys.accumulate(words, row, depth, rows, head, panel, width)
        for r, accumulator in enumerate(accumulators):
            base = (row + r) * shape.stride + panel * isa.columns
            best = load(tops, (row + r) * lanes, lanes)
            for v in range(0, width, lanes):
                value = T.Bind(load(accumulator, v, lanes))
                store(logits, base + v, value, lanes)
                best = T.Bind(T.max(best, value))
            store(tops, (row + r) * lanes, best, lanes)

    emit_tiles(keys, present, rest, is_last, tile)


def _emit_output(
    shape: Attention, weights: Buffer, packed: PackedHeads, head: Expr, first: Expr, present: Expr,
    is_last: Expr, scale: RowScale, out: Buffer,
) -> None:  # fmt: skip
    """Weighted sum of the values, normalised per row, to int8."""
    values = shape.values
    isa, lanes, stride = values.isa, values.isa.lanes, shape.stride // values.isa.k_group
    words = flat(weights, word_dtype(isa), shape.block_rows * stride)
    rest = shape.tokens % shape.block_rows % isa.rows

    def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
        accumulators = packed.values.accumulate(words, row, stride, rows, head, panel, width)
        column = head * shape.head_width + panel * isa.columns
        for r, accumulator in enumerate(accumulators):
            shift, multiplier = (T.Bind(b[row + r]) for b in (scale.shift, scale.multiplier))
            base = (first + row + r) * shape.width + column
            size = values.group * lanes
            for v in range(0, width, size):
                vectors = [load(accumulator, v + u, lanes) for u in range(0, size, lanes)]
                result = emit_normalise(isa, shape.post_shift, vectors, shift, multiplier)
                store_vector(out, base + v, result, "int8", size, real - v)

    emit_tiles(values, present, rest, is_last, tile)


def key_block(isa: Isa, block: int) -> Isa:
    """ISA with a register block for the logits: whole groups of vectors."""
    rows, vectors = divmod(block, 100)
    return isa.with_block(rows * 100 + round_up(vectors, key_group(isa)))


def key_group(isa: Isa) -> int:
    """Vectors of keys whose columns interleave: none where packs work across the register."""
    return 1 if isa.pack_lanes == isa.lanes else group_vectors(isa)


def value_block(isa: Isa, head_width: int) -> Isa:
    """ISA with a register block for the weighted sum: taller where a head is narrow."""
    isa = isa if isa.weighted is None else isa.weighted.with_block(isa.block)
    vectors = -(-head_width // isa.lanes)
    if 2 * vectors <= isa.vectors:
        return isa.with_block(2 * isa.rows * 100 + vectors)
    return isa.with_block(isa.rows * 100 + min(vectors, isa.vectors))


def default_block_rows(isa: Isa, head_width: int, tokens: int) -> int:
    """Queries of a task: logits and weights of the block and one head's panels fit an L2."""
    tile = lcm(isa.rows, value_block(isa, head_width).rows)
    row_bytes = row_stride(isa, tokens) * (4 + np.dtype(isa.a_dtype).itemsize)
    by_cache = max(tile, 160 * 1024 // row_bytes // tile * tile)
    return min(by_cache, round_up(tokens, tile), round_up(24, tile))


def _family(context: LoweringContext) -> Isa:
    return context.isa.attention or context.isa


def attention_space(context: LoweringContext) -> Space:
    """What a tuner may choose: register block of the logits, and queries of a task."""
    isa = _family(context)
    if isa.tile_unit is not None:
        return {"block_rows": TILE_BLOCK_ROWS}
    tokens, columns = context.types["qkv"].shape
    width = columns // (3 * context.types["exp_multiplier"].shape[0])
    default = default_block_rows(key_block(isa, isa.block), width, tokens)
    others = [n for n in (4, 8, 12, 16, 24, 32, 48, 64, 96) if n < tokens]
    blocks = [b for b in isa.blocks() if b % 100 % key_group(isa) == 0]
    return {
        "block": [isa.block, *(b for b in blocks if b != isa.block)],
        "block_rows": [default, *(n for n in others if n != default)],
    }


def lower_attention(context: LoweringContext) -> Lowering:
    """Lower ``iseg.shiftmax_attention``."""
    tokens, columns = context.types["qkv"].shape
    constants = [context.constant(name) for name in PARAMETERS]
    post_shift = int(context.attributes["post_shift"])
    check_constants(*constants, post_shift=post_shift, tokens=tokens)
    heads = constants[0].shape[0]
    head_width = columns // (3 * heads)
    exponential = ShiftExponential(
        int(context.attributes["fraction_bits"]), *POLYNOMIALS[context.attributes["polynomial"]]
    )
    table = np.stack([c.astype(np.int32) for c in constants], axis=1)
    if _family(context).tile_unit is not None:
        rows = context.schedule.get("block_rows", TILE_BLOCK_ROWS[0])
        tiled = TileAttention(
            _family(context), tokens, heads, head_width, rows, exponential, post_shift
        )
        function = build_tile_attention(tiled, "attention")
        tables = [table, tiled.dither_table(), tiled.exponential_table()]
        return Lowering(function, ["qkv", *tables], context.result)
    isa = key_block(_family(context), context.schedule.get("block", _family(context).block))
    wanted = context.schedule.get("block_rows", default_block_rows(isa, head_width, tokens))
    shape = Attention(
        isa=isa,
        tokens=tokens,
        heads=heads,
        head_width=head_width,
        block_rows=round_up(wanted, lcm(isa.rows, value_block(isa, head_width).rows)),
        exponential=exponential,
        post_shift=post_shift,
    )
    tables = [table, dither_table(isa), shape.exponential.table()]
    return Lowering(build_attention(shape, "attention"), ["qkv", *tables], context.result)
