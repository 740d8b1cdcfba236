"""Fused Shiftmax attention for families with a tile unit.

Logits come twice, a group of keys at a time (:mod:`attention_tiles_logits`); what a task keeps are
its queries' uint8 weights, the left operand of the product with the values.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from iseg_tvm.kernels.attention_tiles_logits import (
    TILE_SUMS,
    Block,
    Logits,
    TileAttention,
    allocate_block,
    each_group,
    sums_of,
    sums_place,
)
from iseg_tvm.kernels.attention_tiles_packing import GROUP, VECTORS, emit_packing
from iseg_tvm.kernels.packing import emit_pack_left_row
from iseg_tvm.kernels.shiftmax import (
    DITHER_PERIOD,
    PARAMETERS,
    Tables,
    emit_normalise,
    emit_power,
    emit_scale,
)
from iseg_tvm.kernels.tile_unit import (
    TILE_BYTES,
    TILE_ROWS,
    TileOperand,
    TileProduct,
    Tiles,
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
    splat,
    spread,
    store,
)


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
        with T.parallel(0, shape.tasks) as task, unit.open() as tiles:
            head, block = shape.of_task(task)
            _emit_block(shape, tiles, qkv, tables, keys, values, head, block, out)
    return builder.get()


def _emit_block(
    shape: TileAttention, tiles: Tiles, qkv: Buffer, tables: Tables, keys: Buffer, values: Buffer,
    head: Expr, block: Expr, out: Buffer,
) -> None:  # fmt: skip
    isa, lanes, packed = shape.isa, shape.isa.lanes, shape.packed
    first = T.Bind(block * shape.block_rows)
    present = T.Bind(T.min(shape.tokens - first, shape.block_rows))
    exp_multiplier, exp_shift, out_multiplier, out_shift = tables.of_head(head)
    memory = allocate_block(shape, tiles)
    with T.serial(0, present) as row:
        start = (first + row) * (3 * shape.width) + head * shape.head_width
        emit_pack_left_row(isa, memory.queries, row, packed.depth, qkv, start, shape.head_width)
        store(memory.lanes, row * lanes, splat(-(2**31), "int32", lanes), lanes)
        store(memory.totals, row * lanes, splat(0, "int32", lanes), lanes)
    logits = Logits(shape, memory, keys, head, None)
    each_group(logits, present, partial(_emit_maximum, shape, memory))
    _emit_starts(shape, memory, present, exp_shift)
    differences = Logits(shape, memory, keys, head, memory.lanes)
    shift = T.Bind(spread(exp_shift, lanes))
    negated = T.Bind(spread(cast(T.int32(0) - exp_multiplier, "int16", 1), 2 * lanes))
    weigh = partial(_emit_weights, shape, memory, tables, first, shift, negated)
    each_group(differences, present, weigh)
    with T.serial(0, present) as row:
        total = T.Bind(reduce_add(load(memory.totals, row * lanes, lanes), "int32", lanes))
        emit_scale(total, out_multiplier, out_shift, shape.post_shift, memory.scale, row)
    _emit_output(shape, memory, values, head, first, present, out)


def _emit_maximum(shape: TileAttention, memory: Block, group: Expr, row: Expr, valid: int) -> None:
    """Lanes' maxima; padding repeats a key."""
    lanes = shape.isa.lanes
    a, b, c, d = sums_of(shape, memory, group, row)
    best = T.max(T.max(a, b), T.max(c, T.max(d, load(memory.lanes, row * lanes, lanes))))
    store(memory.lanes, row * lanes, best, lanes)


def _emit_starts(shape: TileAttention, memory: Block, present: Expr, exp_shift: Expr) -> None:
    """What step 2 adds to a logit, so that an arithmetic shift gives ``-rshr(top - x, s)``.

    ``-floor((top - x + half) / 2**s) = floor((x - top - half + 2**s - 1) / 2**s)``.
    """
    lanes = shape.isa.lanes
    unit = T.Bind(T.int32(1) << exp_shift)
    rounding = T.Bind(unit - 1 - (unit >> 1))
    with T.serial(0, present) as row:
        name = f"llvm.vector.reduce.smax.v{lanes}i32"
        top = T.call_llvm_pure_intrin("int32", name, load(memory.lanes, row * lanes, lanes))
        store(memory.lanes, row * lanes, spread(T.Bind(rounding - top), lanes), lanes)


def _emit_weights(
    shape: TileAttention, memory: Block, tables: Tables, first: Expr, shift: Expr,
    negated: Expr, group: Expr, row: Expr, valid: int,
) -> None:  # fmt: skip
    """Steps 2 to 7 (the row sum) for a row of a group of keys.

    Differences and multiplier are both negated. ``sat16`` of a negative one may be -32768, where
    the definition has 32767: the weight is 0 either way. Everything from g on is doubled, so that
    a weight is the upper byte of 16 bits; twice g plus its summand is below 2**16.
    """
    isa, lanes, wide = shape.isa, shape.isa.lanes, 2 * shape.isa.lanes
    differences = [T.Bind(d >> shift) for d in sums_of(shape, memory, group, row)]
    place = T.Bind(((first + row) & (DITHER_PERIOD - 1)) * GROUP)
    totals = []
    for odd in (0, 1):
        t = T.Bind(isa.narrow16(differences[2 * odd], differences[2 * odd + 1], lanes))
        g, n = emit_power(isa, shape.exponential, t, negated, tables.exponential)
        if isa.lookup64 is None or not shape.exponential.has_table:
            g = T.Bind(g + g)
        summand = load(tables.dither, place + odd * wide, wide)
        totals.append(T.Bind(isa.shift_right(g, n, wide) + summand))
    weights = _merged(shape, tables, totals)
    store(memory.weights, (group * shape.block_rows + row) * GROUP, weights, GROUP)
    if valid < GROUP:
        keep = np.where(np.arange(GROUP) < valid, 255, 0).astype(np.uint8)
        weights = T.Bind(weights & constant_vector(keep))
    total = isa.weight_sum(load(memory.totals, row * lanes, lanes), weights, GROUP)
    store(memory.totals, row * lanes, total, lanes)


def _merged(shape: TileAttention, tables: Tables, totals: list[Expr]) -> Expr:
    """Upper bytes of even and odd keys side by side, in memory order; uint8x64."""
    wide = 2 * shape.isa.lanes
    eight = T.Bind(load(tables.dither, DITHER_PERIOD * GROUP, wide))
    even = T.Bind(shape.isa.shift_right(totals[0], eight, wide))
    both = even | (totals[1] & splat(-256, "int16", wide))
    return T.Bind(reinterpret(T.Bind(both), "uint8", GROUP))


def _emit_output(
    shape: TileAttention, memory: Block, values: Buffer, head: Expr, first: Expr, present: Expr,
    out: Buffer,
) -> None:  # fmt: skip
    """Weighted sum of the values, normalised per row, to int8."""
    packed, rows = shape.packed, shape.block_rows
    left = TileOperand(memory.weights, T.int32(0), TILE_BYTES, rows * GROUP, TILE_ROWS * TILE_BYTES)
    tall, depth = rows // TILE_ROWS, packed.groups * GROUP
    product = TileProduct(memory.tiles, tall, packed.wide, depth, True)
    for chunk in range(packed.chunks):
        for tile in range(0, VECTORS, product.wide):
            product.multiply(left, packed.values(values, head, chunk, tile))
            place = sums_place(shape, T.int32(0), tile)
            sums = TileOperand(memory.sums, place, TILE_BYTES, TILE_SUMS, rows * TILE_ROWS)
            product.store(sums)
        column = head * shape.head_width + chunk * GROUP
        valid = min(GROUP, shape.head_width - chunk * GROUP)
        with T.serial(0, present) as row:
            scales = (T.Bind(b[row]) for b in (memory.scale.shift, memory.scale.multiplier))
            vectors = sums_of(shape, memory, T.int32(0), row)
            result = emit_normalise(shape.isa, shape.post_shift, vectors, *scales)
            store_vector(out, (first + row) * shape.width + column, result, "int8", GROUP, valid)
