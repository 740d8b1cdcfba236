"""What a task of :mod:`attention_tiles` holds, and its logits, 64 keys at a time.

The logits cost so little in tiles that they are computed twice: once for the row maxima, once for
the weights. int32 logits thus live in a few KB of L1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.attention_shape import AttentionShape
from iseg_tvm.kernels.attention_tiles_packing import GROUP, VECTORS, PackedGroups
from iseg_tvm.kernels.shiftmax import DITHER_PERIOD, RowScale
from iseg_tvm.kernels.tile_unit import TILE_BYTES, TILE_ROWS, Tiles, tile_scratch
from iseg_tvm.kernels.vector import Buffer, Expr, T, load, scratch
from relay_ops.shiftmax_attention import dither

TILE_SUMS = TILE_ROWS * TILE_ROWS

TILE_BLOCK_ROWS = (32, 16)
"""Queries of a task worth trying, the default first."""


@dataclass(frozen=True)
class TileAttention(AttentionShape):
    """Its packed operands and tables; ``block_rows`` is one of :data:`TILE_BLOCK_ROWS`."""

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
class Block:
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


def allocate_block(shape: TileAttention, tiles: Tiles) -> Block:
    """Return a task's working memory."""
    rows, lanes, packed = shape.block_rows, shape.isa.lanes, shape.packed
    return Block(
        tiles,
        queries=tile_scratch(rows * packed.depth, "int8"),
        sums=tile_scratch(2 * rows * GROUP, "int32"),
        weights=tile_scratch(packed.groups * rows * GROUP, "uint8"),
        lanes=tile_scratch(rows * lanes, "int32"),
        totals=scratch(rows * lanes, "int32"),
        scale=RowScale(scratch(rows, "int16"), scratch(rows, "int32")),
    )


@dataclass(frozen=True)
class Logits:
    """Step 1, a tile of 16 keys at a time; two sets of tile registers take turns.

    Attributes
    ----------
    starts : int32 (row, lane) that sums start from; None for 0
    """

    shape: TileAttention
    memory: Block
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
            place = sums_place(self.shape, group, tile) + r * TILE_SUMS
            self.memory.tiles.store(c, self.memory.sums, place, TILE_BYTES)

    def _sums(self, tile: int) -> list[int]:
        return [tile % 2 * self.tall + r for r in range(self.tall)]


UseRow = Callable[[Expr, Expr, int], None]
"""(group, row, keys that exist): what is done with a row's logits of a group."""


def each_group(logits: Logits, present: Expr, use: UseRow) -> None:
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


def sums_of(shape: TileAttention, memory: Block, group: Expr, row: Expr) -> list[Expr]:
    """The four vectors of a row of a group."""
    lanes = shape.isa.lanes
    starts = [sums_place(shape, group, v) + row * lanes for v in range(VECTORS)]
    return [T.Bind(load(memory.sums, start, lanes)) for start in starts]


def sums_place(shape: TileAttention, group: Expr, tile: int) -> Expr:
    """Where the sums of a tile's columns lie, row after row."""
    return ((group & 1) * VECTORS + tile) * (shape.block_rows * TILE_ROWS)
