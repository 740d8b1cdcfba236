"""Fused Shiftmax attention for families with a tile unit.

There the logits cost so little that they are computed twice: once for the row maxima, once for
the weights, 64 keys at a time. int32 logits thus live in a few KB of L1; what a task keeps are its
queries' uint8 weights, the left operand of the product with the values.

A group is 64 keys, or 64 columns of the values: four vectors of sums. Its panels are as wide as
four tiles allow beside the block's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from iseg_tvm.kernels.attention_tiles_packing import (
    GROUP,
    PackedGroups,
    emit_packing,
    key_order,
)
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import emit_pack_left_row
from iseg_tvm.kernels.shiftmax import (
    DITHER_PERIOD,
    PARAMETERS,
    RowOperands,
    RowScale,
    ShiftExponential,
    Tables,
    emit_normalise,
    emit_power,
    emit_scale,
)
from iseg_tvm.kernels.tile_unit import (
    TILE_BYTES,
    TILE_ROWS,
    TileOperand,
    Tiles,
    TileSums,
    emit_tile_product,
    panel_operand,
    requested,
)
from iseg_tvm.kernels.tiles import store_vector
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    cast,
    constant_vector,
    flat,
    kernel,
    load,
    reduce_add,
    reinterpret,
    scratch,
    splat,
    spread,
    store,
)
from relay_ops.shiftmax_attention import dither

TILE_BLOCK_ROWS = (32, 16)
"""Queries of a task worth trying, the default first."""

LOWEST = -(2**30)
"""Logits of padding start here: below every logit, and so is what a product adds to it."""


@dataclass(frozen=True)
class TileAttention:
    """Shapes and blocking.

    Attributes
    ----------
    block_rows : queries of a task, of :data:`TILE_BLOCK_ROWS`
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
    def blocks(self) -> int:
        """Query blocks of one head."""
        return -(-self.tokens // self.block_rows)

    @property
    def packed(self) -> PackedGroups:
        """Keys and values of all heads."""
        panels = self.block_rows // TILE_ROWS
        return PackedGroups(self.isa, self.tokens, self.heads, self.head_width, panels)

    def dither_table(self) -> np.ndarray:
        """Twice step 6's summands, (query, odd keys, key) of one period each; int16."""
        query = np.arange(DITHER_PERIOD)[:, None, None]
        key = np.arange(GROUP).reshape(-1, 2).T
        return (2 * dither(query, key)).astype(np.int16).reshape(-1)

    def exponential_table(self) -> np.ndarray:
        """Twice step 5's g as bits of uint16."""
        return (2 * self.exponential.table().astype(np.int32)).astype(np.uint16).view(np.int16)


@dataclass(frozen=True)
class _Block:
    """Working memory of a task: ``block_rows`` rows of everything.

    Attributes
    ----------
    sums : int32, of one group, (panel, row, column of the panel)
    weights : uint8, (group, row, 64)
    tops : int32 maxima of each lane; of the whole row, plus step 2's rounding, in ``top``
    totals : int32 sums of the weights of each lane
    """

    tiles: Tiles
    queries: Buffer
    sums: Buffer
    weights: Buffer
    tops: Buffer
    top: Buffer
    totals: Buffer
    scale: RowScale


def build_tile_attention(shape: TileAttention, name: str) -> PrimFunc:
    """``(qkv, per-head parameters int32 (H, 4), dither table, exponential table, out)``."""
    parameters = [
        ("qkv", (shape.tokens, 3 * shape.width), "int8"),
        ("parameters", (shape.heads, len(PARAMETERS)), "int32"),
        ("dither", shape.dither_table().shape, "int16"),
        ("exponential", shape.exponential_table().shape, "int16"),
        ("out", (shape.tokens, shape.width), "int8"),
    ]
    unit = shape.isa.tile_unit
    assert unit is not None
    with kernel(name, parameters) as (builder, buffers), requested(unit):
        qkv = flat(buffers[0], "int8", shape.tokens * 3 * shape.width)
        per_head = flat(buffers[1], "int32", shape.heads * len(PARAMETERS))
        tables = Tables(per_head, buffers[2], buffers[3])
        out = flat(buffers[4], "int8", shape.tokens * shape.width)
        keys, values = emit_packing(shape.packed, qkv)
        with T.parallel(0, shape.heads * shape.blocks) as task, unit.open() as tiles:
            head, block = T.Bind(task // shape.blocks), T.Bind(task % shape.blocks)
            _emit_block(shape, tiles, qkv, tables, keys, values, head, block, out)
    return builder.get()


def _allocate(shape: TileAttention, tiles: Tiles) -> _Block:
    rows, lanes, packed = shape.block_rows, shape.isa.lanes, shape.packed
    return _Block(
        tiles,
        queries=scratch(rows * packed.depth, "int8"),
        sums=scratch(rows * GROUP, "int32"),
        weights=scratch(packed.groups * rows * GROUP, "uint8"),
        tops=scratch(rows * lanes, "int32"),
        top=scratch(rows, "int32"),
        totals=scratch(rows * lanes, "int32"),
        scale=RowScale(scratch(rows, "int16"), scratch(rows, "int32")),
    )


def _emit_block(
    shape: TileAttention, tiles: Tiles, qkv: Buffer, tables: Tables, keys: Buffer, values: Buffer,
    head: Expr, block: Expr, out: Buffer,
) -> None:  # fmt: skip
    isa, lanes, packed = shape.isa, shape.isa.lanes, shape.packed
    first = T.Bind(block * shape.block_rows)
    present = T.Bind(T.min(shape.tokens - first, shape.block_rows))
    exp_multiplier, exp_shift, out_multiplier, out_shift = tables.of_head(head)
    memory = _allocate(shape, tiles)
    with T.serial(0, present) as row:
        start = (first + row) * (3 * shape.width) + head * shape.head_width
        emit_pack_left_row(isa, memory.queries, row, packed.depth, qkv, start, shape.head_width)
        store(memory.tops, row * lanes, splat(LOWEST, "int32", lanes), lanes)
        store(memory.totals, row * lanes, splat(0, "int32", lanes), lanes)
    logits = partial(_emit_logits, shape, memory, keys, head)
    _each_group(shape, logits, partial(_emit_maxima, shape, memory, present))
    half = T.Bind((T.int32(1) << exp_shift) >> 1)
    with T.serial(0, present) as row:
        name = f"llvm.vector.reduce.smax.v{lanes}i32"
        top = T.call_llvm_pure_intrin("int32", name, load(memory.tops, row * lanes, lanes))
        store(memory.top, row, top + half, 1)
    shift = T.Bind(spread(exp_shift, lanes))
    multiplier = T.Bind(spread(cast(exp_multiplier, "int16", 1), 2 * lanes))
    weigh = partial(_emit_weights, shape, memory, tables, first, present, shift, multiplier)
    _each_group(shape, logits, weigh)
    with T.serial(0, present) as row:
        total = T.Bind(reduce_add(load(memory.totals, row * lanes, lanes), "int32", lanes))
        emit_scale(total, out_multiplier, out_shift, shape.post_shift, memory.scale, row)
    _emit_output(shape, memory, values, head, first, present, out)


def _each_group(
    shape: TileAttention, logits: Callable[[Expr, int], None], use: Callable[[Expr, int], None]
) -> None:
    """Compute and use the logits of every group; both take (group, keys that exist)."""
    full, rest = divmod(shape.tokens, GROUP)
    if full:
        with T.serial(0, full) as group:
            logits(group, GROUP)
            use(group, GROUP)
    if rest:
        logits(T.int32(full), rest)
        use(T.int32(full), rest)


def _emit_logits(
    shape: TileAttention, memory: _Block, keys: Buffer, head: Expr, group: Expr, valid: int
) -> None:
    """Step 1 for a group of keys."""
    packed, rows = shape.packed, shape.block_rows
    starts = None
    if valid < GROUP:
        starts = scratch(GROUP, "int32")
        values = np.where(key_order(shape.isa) < valid, 0, LOWEST).astype(np.int32)
        for v in range(0, GROUP, shape.isa.lanes):
            store(starts, v, constant_vector(values[v : v + shape.isa.lanes]), shape.isa.lanes)
    for p in range(packed.panels):
        start = T.Bind(packed.key_panel(head, group, p))
        emit_tile_product(
            memory.tiles, TileOperand(memory.queries, T.int32(0), packed.depth, TILE_BYTES),
            panel_operand(keys, start, packed.panel_width), rows, packed.panel_width, packed.depth,
            TileSums(memory.sums, T.int32(p * rows * packed.panel_width)),
            None if starts is None else (starts, T.int32(p * packed.panel_width)),
        )  # fmt: skip


def _sums_of(shape: TileAttention, memory: _Block, row: Expr) -> list[Expr]:
    """The four vectors of a row of the group."""
    width, lanes = shape.packed.panel_width, shape.isa.lanes
    return [
        T.Bind(load(memory.sums, (p * shape.block_rows + row) * width + v, lanes))
        for p in range(shape.packed.panels)
        for v in range(0, width, lanes)
    ]


def _emit_maxima(
    shape: TileAttention, memory: _Block, present: Expr, group: Expr, valid: int
) -> None:
    lanes = shape.isa.lanes
    with T.serial(0, present) as row:
        best = load(memory.tops, row * lanes, lanes)
        for logit in _sums_of(shape, memory, row):
            best = T.max(best, logit)
        store(memory.tops, row * lanes, best, lanes)


def _emit_weights(
    shape: TileAttention, memory: _Block, tables: Tables, first: Expr, present: Expr, shift: Expr,
    multiplier: Expr, group: Expr, valid: int,
) -> None:  # fmt: skip
    """Steps 2 to 7 (the row sum) for a group of keys.

    Everything is doubled, so that a weight is the upper byte of 16 bits: those of even keys are
    shifted down beside those of odd keys. Twice g is below 2**16, with its summand too.
    """
    isa, lanes, wide = shape.isa, shape.isa.lanes, 2 * shape.isa.lanes
    with T.serial(0, present) as row:
        top = T.Bind(spread(memory.top[row], lanes))
        operands = RowOperands(top, shift, multiplier)
        logits = _sums_of(shape, memory, row)
        summands = T.Bind(((first + row) & (DITHER_PERIOD - 1)) * GROUP)
        bits = []
        for odd in (0, 1):
            g, n = emit_power(
                isa, shape.exponential, logits[2 * odd : 2 * odd + 2], operands, tables.exponential
            )
            if isa.lookup64 is None or not shape.exponential.has_table:
                g = T.Bind(g + g)
            summand = load(tables.dither, summands + odd * wide, wide)
            total = isa.shift_right(g, n, wide) + summand
            bits.append(T.Bind(reinterpret(total, "uint16", wide)))
        even = bits[0] >> splat(8, "uint16", wide)
        both = T.Bind(even | (bits[1] & splat(0xFF00, "uint16", wide)))
        weights = T.Bind(reinterpret(both, "uint8", GROUP))
        store(memory.weights, (group * shape.block_rows + row) * GROUP, weights, GROUP)
        if valid < GROUP:
            keep = np.where(np.arange(GROUP) < valid, 255, 0).astype(np.uint8)
            weights = T.Bind(weights & constant_vector(keep))
        total = isa.weight_sum(load(memory.totals, row * lanes, lanes), weights, GROUP)
        store(memory.totals, row * lanes, total, lanes)


def _emit_output(
    shape: TileAttention, memory: _Block, values: Buffer, head: Expr, first: Expr, present: Expr,
    out: Buffer,
) -> None:  # fmt: skip
    """Weighted sum of the values, normalised per row, to int8."""
    packed, rows = shape.packed, shape.block_rows
    width = packed.panel_width
    left = TileOperand(memory.weights, T.int32(0), TILE_BYTES, rows * GROUP)
    for chunk in range(packed.chunks):
        for p in range(packed.panels):
            start = T.Bind(packed.value_panel(head, chunk, p))
            emit_tile_product(
                memory.tiles, left, panel_operand(values, start, width), rows, width,
                packed.groups * GROUP, TileSums(memory.sums, T.int32(p * rows * width)),
                unsigned=True,
            )  # fmt: skip
        column = head * shape.head_width + chunk * GROUP
        valid = min(GROUP, shape.head_width - chunk * GROUP)
        with T.serial(0, present) as row:
            scales = (T.Bind(b[row]) for b in (memory.scale.shift, memory.scale.multiplier))
            sums = _sums_of(shape, memory, row)
            result = emit_normalise(shape.isa, shape.post_shift, sums, *scales)
            store_vector(out, (first + row) * shape.width + column, result, "int8", GROUP, valid)
