"""Keys and values of all heads as tiles: the right operands of :mod:`attention_tiles`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.attention_packing import interleaved
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import emit_pack_left_row, packed_order
from iseg_tvm.kernels.tile_unit import TILE_BYTES, TILE_ROWS, TileOperand
from iseg_tvm.kernels.vector import Buffer, Expr, T, load, reinterpret, scratch, splat, store

GROUP = 64
"""Keys, or columns of the values, that are handled together."""
VECTORS = 4
"""Of sums of a group."""
WORD = 4
"""Bytes of the inner dimension that one lane of a tile multiplies."""
TILE = TILE_ROWS * TILE_BYTES


@dataclass(frozen=True)
class PackedGroups:
    """Layout of keys ``[head][group][tile][step]`` and of values.

    Values: ``[head][chunk][tile / wide][group][tile % wide]``. Each is a tile of 16 words by 16
    columns, 1 KB. A group of keys, and a chunk of the values' columns, are four tiles.

    Attributes
    ----------
    wide : tiles of the values that one product takes, which lie in the order it reads them
    """

    isa: Isa
    tokens: int
    heads: int
    head_width: int
    wide: int

    @property
    def depth(self) -> int:
        """Head width after padding."""
        return self.isa.depth(self.head_width)

    @property
    def groups(self) -> int:
        """Groups of keys; as many steps has a product with values."""
        return -(-self.tokens // GROUP)

    @property
    def chunks(self) -> int:
        """Groups of the values' columns; as many steps has a product with keys."""
        return self.depth // GROUP

    @property
    def size(self) -> int:
        """Bytes of the keys, and of the values, of all heads."""
        return self.heads * self.groups * GROUP * self.depth

    def keys(self, panels: Buffer, head: Expr, group: Expr, tile: int) -> TileOperand:
        """One tile of a group's keys."""
        place = ((head * self.groups + group) * VECTORS + tile) * self.chunks
        return TileOperand(panels, T.Bind(place * TILE), TILE_BYTES, TILE, 0)

    def values(self, panels: Buffer, head: Expr, chunk: int, tile: int) -> TileOperand:
        """The values from a tile of a chunk on."""
        part = (head * self.chunks + chunk) * (VECTORS // self.wide) + tile // self.wide
        place = part * (self.groups * self.wide) + tile % self.wide
        return TileOperand(panels, T.Bind(place * TILE), TILE_BYTES, self.wide * TILE, TILE)


def key_order(isa: Isa) -> np.ndarray:
    """Key, within its group, of every lane of a group's four vectors of logits; int64 (64,).

    ``narrow16`` makes the first two vectors to 16-bit lanes of even keys, the others of odd ones.
    """
    words = packed_order(isa, 2)
    return np.concatenate([2 * words, 2 * words + 1])


def emit_packing(packed: PackedGroups, qkv: Buffer) -> tuple[Buffer, Buffer]:
    """Pack keys and values, a group of keys at a time."""
    keys, values = scratch(packed.size, "int8"), scratch(packed.size, "int8")
    with T.parallel(0, packed.heads * packed.groups) as task:
        group, head = T.Bind(task // packed.heads), T.Bind(task % packed.heads)
        rows = [_rows(packed, qkv, head, group, part) for part in (1, 2)]
        for chunk in range(packed.chunks):
            _emit_keys(packed, keys, *rows[0], head, group, chunk)
            _emit_values(packed, values, *rows[1], head, group, chunk)
    return keys, values


def _rows(
    packed: PackedGroups, qkv: Buffer, head: Expr, group: Expr, part: int
) -> tuple[Buffer, Expr, int]:
    """Rows of a group's keys (part 1) or values (2): (buffer, first byte, bytes between rows).

    In place if a head fills whole tiles, else padded copies.
    """
    width = packed.heads * packed.head_width
    start = T.Bind(part * width + head * packed.head_width)
    if packed.depth == packed.head_width:
        return qkv, T.Bind(start + group * (GROUP * 3 * width)), 3 * width
    copies = scratch(GROUP * packed.depth, "int8")
    with T.serial(0, T.min(GROUP, packed.tokens - group * GROUP)) as row:
        source = start + (group * GROUP + row) * (3 * width)
        emit_pack_left_row(packed.isa, copies, row, packed.depth, qkv, source, packed.head_width)
    return copies, T.int32(0), packed.depth


def _emit_keys(
    packed: PackedGroups, keys: Buffer, source: Buffer, start: Expr, stride: int, head: Expr,
    group: Expr, chunk: int,
) -> None:  # fmt: skip
    """Transpose words of 16 keys at a time. The last key stands in for those past it.

    So padding does not change the maximum of a row.
    """
    lanes = packed.isa.lanes
    last = T.Bind(T.min(GROUP, packed.tokens - group * GROUP) - 1)
    order = key_order(packed.isa).reshape(-1, lanes)
    for v, columns in enumerate(order.tolist()):
        rows = [
            load(source, start + T.min(T.int32(key), last) * stride + chunk * TILE_BYTES, GROUP)
            for key in columns
        ]
        vectors = transposed([T.Bind(reinterpret(T.Bind(r), "int32", lanes)) for r in rows])
        base = packed.keys(keys, head, group, v).start + chunk * TILE
        for word, vector in enumerate(vectors):
            store(keys, base + word * TILE_BYTES, reinterpret(vector, "int8", GROUP), GROUP)


def transposed(rows: list[Expr]) -> list[Expr]:
    """Transpose a square of int32: row by row, blocks of 1, 2, 4... columns change places."""
    size = len(rows)
    step = 1
    while step < size:
        rows = [
            _exchanged(rows[i & ~step], rows[i | step], step, bool(i & step)) for i in range(size)
        ]
        step *= 2
    return rows


def _exchanged(low: Expr, high: Expr, step: int, upper: bool) -> Expr:
    """Columns whose bit ``step`` is ``upper``, of both vectors in turn."""
    size = int(low.ty.dtype.lanes)
    lanes = []
    for lane in range(size):
        column = lane & ~step | (step if upper else 0)
        lanes.append(T.int32(column + (size if lane & step else 0)))
    return T.Bind(T.Shuffle([low, high], lanes))


def _emit_values(
    packed: PackedGroups, values: Buffer, source: Buffer, start: Expr, stride: int, head: Expr,
    group: Expr, chunk: int,
) -> None:  # fmt: skip
    """Interleave four keys at a time; values past the last key are 0."""
    last = T.Bind(packed.tokens - group * GROUP)
    targets = [packed.values(values, head, chunk, v) for v in range(VECTORS)]
    bases = [T.Bind(target.start + group * target.step) for target in targets]
    with T.serial(0, TILE_ROWS) as word:
        rows = []
        for key in range(WORD):
            index = T.Bind(word * WORD + key)
            row = load(source, start + index * stride + chunk * TILE_BYTES, GROUP)
            rows.append(T.Bind(T.if_then_else(index < last, row, splat(0, "int8", GROUP))))
        for v, vector in enumerate(interleaved(packed.isa, VECTORS, rows)):
            store(values, bases[v] + word * TILE_BYTES, vector, GROUP)
