"""Matrix units: eight tile registers of 16 rows of 64 bytes, and products between them.

A product ``C (16 rows, 16 int32) += A (16 rows, 64 bytes) x B (16 words of 4 bytes, 16 columns)``
is what Intel's AMX computes (:mod:`isa_amx`). A panel of a packed right operand already holds its
B tiles: 16 words of the inner dimension, ``columns * 4`` bytes apart.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from iseg_tvm.kernels.vector import Buffer, Expr, T, scratch, splat, store

TILE_ROWS = 16
TILE_BYTES = 64
"""Of a row, which is 64 int8 values or 16 int32."""

UNROLL = 4
"""Steps over the inner dimension that are written out rather than looped over."""


class Tiles(Protocol):
    """Tile registers 0 to 7 of a parallel task; indices count elements, strides bytes."""

    def zero(self, tile: int) -> None:
        """Fill with 0."""

    def load(self, tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
        """Load 16 rows that start ``stride`` bytes apart; 0 repeats one row."""

    def dot(self, total: int, left: int, right: int) -> None:
        """Add the product of int8 tiles."""

    def weighted_dot(self, total: int, left: int, right: int) -> None:
        """Add the product of a uint8 tile and an int8 tile."""

    def store(self, tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
        """Store 16 rows ``stride`` bytes apart."""


class TileUnit(Protocol):
    """How kernels reach the unit."""

    def request(self) -> AbstractContextManager[None]:
        """Around a kernel's body: ask the operating system for the unit, or fail the call."""

    def open(self) -> AbstractContextManager[Tiles]:
        """Around the body of a parallel task that computes with tiles."""


def requested(unit: TileUnit | None) -> AbstractContextManager[None]:
    """:meth:`TileUnit.request` where kernels use a unit."""
    return nullcontext() if unit is None else unit.request()


def tile_scratch(size: int, dtype: str) -> Buffer:
    """Workspace that tiles are moved to or from.

    TVM sees only the first element that such a move touches, and allocates no more of a buffer
    than it sees used; so it is shown the last one.
    """
    buffer = scratch(size, dtype)
    store(buffer, size - 1, splat(0, dtype, 1), 1)
    return buffer


@dataclass(frozen=True)
class TileOperand:
    """Where the tiles of an operand lie, counted in elements.

    Attributes
    ----------
    start : the first of them
    stride : bytes between the rows of a tile
    step : to the next tile along the inner dimension
    across : to the next tile along the other
    """

    buffer: Buffer
    start: Expr
    stride: int
    step: int
    across: int


def row_operand(rows: Buffer, start: Expr, depth: int) -> TileOperand:
    """Left rows of ``depth`` bytes one after another."""
    return TileOperand(rows, start, depth, TILE_BYTES, TILE_ROWS * depth)


def panel_operand(panels: Buffer, start: Expr, width: int) -> TileOperand:
    """Packed right panel of ``width`` columns."""
    return TileOperand(panels, start, 4 * width, TILE_BYTES * width, TILE_BYTES)


@dataclass(frozen=True)
class TileProduct:
    """A block of up to four tiles of sums: left rows by columns of a right operand.

    Attributes
    ----------
    tall, wide : tiles of rows, of columns
    depth : padded inner size, a multiple of 64
    unsigned : left values are uint8
    """

    tiles: Tiles
    tall: int
    wide: int
    depth: int
    unsigned: bool = False

    def multiply(
        self, left: TileOperand, right: TileOperand, initial: tuple[Buffer, Expr] | None = None
    ) -> None:
        """Compute the sums; they stay in the tile registers.

        Parameters
        ----------
        initial : (int32 buffer, index) of the values that every row starts from; 0 if left out
        """
        tiles, tall, wide = self.tiles, self.tall, self.wide
        assert tall * wide <= 4
        dot = tiles.weighted_dot if self.unsigned else tiles.dot
        lefts = [4 + r for r in range(tall)]
        rights = [4 + tall + v % (4 - tall) for v in range(wide)]
        for c in range(tall * wide):
            if initial is None:
                tiles.zero(c)
            else:
                tiles.load(c, initial[0], initial[1] + c % wide * TILE_ROWS, 0)

        def step(k: Expr) -> None:
            for r, tile in enumerate(lefts):
                place = left.start + k * left.step + r * left.across
                tiles.load(tile, left.buffer, place, left.stride)
            for v, tile in enumerate(rights):
                place = right.start + k * right.step + v * right.across
                tiles.load(tile, right.buffer, place, right.stride)
                for r, left_tile in enumerate(lefts):
                    dot(r * wide + v, left_tile, tile)

        steps = self.depth // TILE_BYTES
        if steps <= UNROLL:
            for k in range(steps):
                step(T.int32(k))
        else:
            with T.serial(0, steps) as k:
                step(k)

    def store(self, sums: TileOperand) -> None:
        """Write the sums; ``step`` leads to the next tile of rows."""
        for c in range(self.tall * self.wide):
            row, v = divmod(c, self.wide)
            place = sums.start + row * sums.step + v * sums.across
            self.tiles.store(c, sums.buffer, place, sums.stride)
