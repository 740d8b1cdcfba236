"""Fused Shiftmax attention for families with a tile unit.

There the logits cost so little that they are computed twice: once for the row maxima, once for
the weights, 64 keys at a time. int32 logits thus live in a few KB of L1; what a task keeps are its
queries' uint8 weights, the left operand of the product with the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from iseg_tvm.kernels.attention_tiles_packing import (
    GROUP,
    VECTORS,
    PackedGroups,
    emit_packing,
)
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import emit_pack_left_row
from iseg_tvm.kernels.shiftmax import (
    DITHER_PERIOD,
    PARAMETERS,
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
    TileProduct,
    Tiles,
    requested,
    tile_scratch,
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

TILE_SUMS = TILE_ROWS * TILE_ROWS

TILE_BLOCK_ROWS = (32, 16)
"""Queries of a task worth trying, the default first."""


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
        wide = VECTORS * TILE_ROWS // self.block_rows
        return PackedGroups(self.isa, self.tokens, self.heads, self.head_width, wide)

    def dither_table(self) -> np.ndarray:
        """Twice step 6's summands, (query, odd keys, key) of one period each; int16.

        Behind them stands a vector of shifts by 8. LLVM must not know them: it would make one
        slow instruction of :func:`_merged`.
        """
        query = np.arange(DITHER_PERIOD)[:, None, None]
        key = np.arange(GROUP).reshape(-1, 2).T
        summands = (2 * dither(query, key)).astype(np.int16).reshape(-1)
        return np.append(summands, np.full(2 * self.isa.lanes, 8, np.int16))

    def exponential_table(self) -> np.ndarray:
        """Twice step 5's g as bits of uint16."""
        return (2 * self.exponential.table().astype(np.int32)).astype(np.uint16).view(np.int16)


@dataclass(frozen=True)
class _Block:
    """Working memory of a task: ``block_rows`` rows of everything.

    Attributes
    ----------
    sums : int32, of two groups in turn, (2, tile, row, 16)
    weights : uint8, (group, row, 64)
    lanes : int32 of every lane of a row: maxima in step 1, then what the differences start from
    totals : int32 sums of the weights of each lane
    """

    tiles: Tiles
    queries: Buffer
    sums: Buffer
    weights: Buffer
    lanes: Buffer
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
        queries=tile_scratch(rows * packed.depth, "int8"),
        sums=tile_scratch(2 * rows * GROUP, "int32"),
        weights=tile_scratch(packed.groups * rows * GROUP, "uint8"),
        lanes=tile_scratch(rows * lanes, "int32"),
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
        store(memory.lanes, row * lanes, splat(-(2**31), "int32", lanes), lanes)
        store(memory.totals, row * lanes, splat(0, "int32", lanes), lanes)
    logits = _Logits(shape, memory, keys, head, None)
    _each_group(logits, present, partial(_emit_maximum, shape, memory))
    _emit_starts(shape, memory, present, exp_shift)
    differences = _Logits(shape, memory, keys, head, memory.lanes)
    shift = T.Bind(spread(exp_shift, lanes))
    negated = T.Bind(spread(cast(T.int32(0) - exp_multiplier, "int16", 1), 2 * lanes))
    weigh = partial(_emit_weights, shape, memory, tables, first, shift, negated)
    _each_group(differences, present, weigh)
    with T.serial(0, present) as row:
        total = T.Bind(reduce_add(load(memory.totals, row * lanes, lanes), "int32", lanes))
        emit_scale(total, out_multiplier, out_shift, shape.post_shift, memory.scale, row)
    _emit_output(shape, memory, values, head, first, present, out)


@dataclass(frozen=True)
class _Logits:
    """Step 1, a tile of 16 keys at a time; two sets of tile registers take turns.

    Attributes
    ----------
    starts : int32 (row, lane) that sums start from; None for 0
    """

    shape: TileAttention
    memory: _Block
    keys: Buffer
    head: Expr
    starts: Buffer | None

    @property
    def tall(self) -> int:
        """Tiles of rows."""
        return self.shape.block_rows // TILE_ROWS

    def load_queries(self) -> None:
        """Queries that fill one step stay in their registers, 4 and 5."""
        if self.shape.packed.chunks == 1:
            self._load_queries(0)

    def _load_queries(self, chunk: int) -> None:
        depth = self.shape.packed.depth
        for r in range(self.tall):
            place = T.int32(r * TILE_ROWS * depth + chunk * TILE_BYTES)
            self.memory.tiles.load(4 + r, self.memory.queries, place, depth)

    def multiply(self, group: Expr, tile: int) -> None:
        """Sums of a tile of keys, into registers that :meth:`store` knows."""
        tiles, packed = self.memory.tiles, self.shape.packed
        sums, right = self._sums(tile), 6 + tile % 2
        for r, c in enumerate(sums):
            if self.starts is None:
                tiles.zero(c)
            else:
                tiles.load(c, self.starts, T.int32(r * TILE_ROWS * TILE_ROWS), TILE_BYTES)
        keys = packed.keys(self.keys, self.head, group, tile)
        for chunk in range(packed.chunks):
            if packed.chunks > 1:
                self._load_queries(chunk)
            tiles.load(right, keys.buffer, keys.start + chunk * keys.step, keys.stride)
            for r, c in enumerate(sums):
                tiles.dot(c, 4 + r, right)

    def store(self, group: Expr, tile: int) -> None:
        """Write what :meth:`multiply` left to the group's rows."""
        for r, c in enumerate(self._sums(tile)):
            place = _sums_place(self.shape, group, tile) + r * TILE_SUMS
            self.memory.tiles.store(c, self.memory.sums, place, TILE_BYTES)

    def _sums(self, tile: int) -> list[int]:
        return [tile % 2 * self.tall + r for r in range(self.tall)]


UseRow = Callable[[Expr, Expr, int], None]
"""(group, row, keys that exist): what is done with a row's logits of a group."""


def _each_group(logits: _Logits, present: Expr, use: UseRow) -> None:
    """Compute and use the logits of every group, a quarter of either in turn.

    The tile unit works on the next group while the vector units work on this one. Tiles are
    stored one step late: nothing that the unit does overtakes a store that waits for sums.
    """
    tokens, quarter = logits.shape.tokens, logits.shape.block_rows // VECTORS
    groups = logits.shape.packed.groups
    logits.load_queries()
    for tile in range(VECTORS):
        logits.multiply(T.int32(0), tile)
        if tile > 0:
            logits.store(T.int32(0), tile - 1)
    if groups > 1:
        with T.serial(0, groups - 1) as group:
            for tile in range(VECTORS):
                logits.multiply(group + 1, tile)
                logits.store(*((group + 1, tile - 1) if tile > 0 else (group, VECTORS - 1)))
                here = T.max(T.min(present - tile * quarter, quarter), 0)
                with T.serial(0, here) as row:
                    use(group, tile * quarter + row, GROUP)
    logits.store(T.int32(groups - 1), VECTORS - 1)
    with T.serial(0, present) as row:
        use(T.int32(groups - 1), row, tokens - (groups - 1) * GROUP)


def _sums_of(shape: TileAttention, memory: _Block, group: Expr, row: Expr) -> list[Expr]:
    """The four vectors of a row of a group."""
    lanes = shape.isa.lanes
    starts = [_sums_place(shape, group, v) + row * lanes for v in range(VECTORS)]
    return [T.Bind(load(memory.sums, start, lanes)) for start in starts]


def _sums_place(shape: TileAttention, group: Expr, tile: int) -> Expr:
    """Where the sums of a tile's columns lie, row after row."""
    return ((group & 1) * VECTORS + tile) * (shape.block_rows * TILE_ROWS)


def _emit_maximum(
    shape: TileAttention, memory: _Block, group: Expr, row: Expr, valid: int
) -> None:
    """Lanes' maxima; padding repeats a key."""
    lanes = shape.isa.lanes
    a, b, c, d = _sums_of(shape, memory, group, row)
    best = T.max(T.max(a, b), T.max(c, T.max(d, load(memory.lanes, row * lanes, lanes))))
    store(memory.lanes, row * lanes, best, lanes)


def _emit_starts(shape: TileAttention, memory: _Block, present: Expr, exp_shift: Expr) -> None:
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
    shape: TileAttention, memory: _Block, tables: Tables, first: Expr, shift: Expr,
    negated: Expr, group: Expr, row: Expr, valid: int,
) -> None:  # fmt: skip
    """Steps 2 to 7 (the row sum) for a row of a group of keys.

    Differences and multiplier are both negated. ``sat16`` of a negative one may be -32768, where
    the definition has 32767: the weight is 0 either way. Everything from g on is doubled, so that
    a weight is the upper byte of 16 bits; twice g plus its summand is below 2**16.
    """
    isa, lanes, wide = shape.isa, shape.isa.lanes, 2 * shape.isa.lanes
    differences = [T.Bind(d >> shift) for d in _sums_of(shape, memory, group, row)]
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
    shape: TileAttention, memory: _Block, values: Buffer, head: Expr, first: Expr, present: Expr,
    out: Buffer,
) -> None:  # fmt: skip
    """Weighted sum of the values, normalised per row, to int8."""
    packed, rows = shape.packed, shape.block_rows
    left = TileOperand(
        memory.weights, T.int32(0), TILE_BYTES, rows * GROUP, TILE_ROWS * TILE_BYTES
    )
    tall, depth = rows // TILE_ROWS, packed.groups * GROUP
    product = TileProduct(memory.tiles, tall, packed.wide, depth, True)
    for chunk in range(packed.chunks):
        for tile in range(0, VECTORS, product.wide):
            product.multiply(left, packed.values(values, head, chunk, tile))
            place = _sums_place(shape, T.int32(0), tile)
            sums = TileOperand(memory.sums, place, TILE_BYTES, TILE_SUMS, rows * TILE_ROWS)
            product.store(sums)
        column = head * shape.head_width + chunk * GROUP
        valid = min(GROUP, shape.head_width - chunk * GROUP)
        with T.serial(0, present) as row:
            scales = (T.Bind(b[row]) for b in (memory.scale.shift, memory.scale.multiplier))
            vectors = _sums_of(shape, memory, T.int32(0), row)
            result = emit_normalise(shape.isa, shape.post_shift, vectors, *scales)
            store_vector(out, (first + row) * shape.width + column, result, "int8", GROUP, valid)
