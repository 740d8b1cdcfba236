"""Matrix units: eight tile registers of 16 rows of 64 bytes, and products between them.

A product ``C (16 rows, 16 int32) += A (16 rows, 64 bytes) x B (16 words of 4 bytes, 16 columns)``
is what Intel's AMX computes (:mod:`isa_amx`). A panel of a packed right operand already holds its
B tiles: 16 words of the inner dimension, ``columns * 4`` bytes apart.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from iseg_tvm.kernels.vector import Buffer, Expr, T

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


@dataclass(frozen=True)
class TileOperand:
    """Where the tiles of an operand lie.

    Attributes
    ----------
    start : first element
    stride : bytes between the rows of a tile
    step : elements to the next tile along the inner dimension
    """

    buffer: Buffer
    start: Expr
    stride: int
    step: int


def panel_operand(panels: Buffer, start: Expr, width: int) -> TileOperand:
    """Packed right panel of ``width`` columns."""
    return TileOperand(panels, start, 4 * width, TILE_BYTES * width)


@dataclass(frozen=True)
class TileSums:
    """int32 results: rows of the product's width from ``start`` on."""

    buffer: Buffer
    start: Expr


def emit_tile_product(
    tiles: Tiles, left: TileOperand, right: TileOperand, rows: int, width: int, depth: int,
    sums: TileSums, initial: tuple[Buffer, Expr] | None = None, unsigned: bool = False,
) -> None:  # fmt: skip
    """Write the product of left rows and a packed right panel to ``sums`` (rows, width), int32.

    Parameters
    ----------
    left : bytes whose rows can be read to a multiple of 16
    rows, width : at most four tiles; the rows are rounded up to whole tiles
    depth : padded inner size, a multiple of 64
    initial : (int32 buffer, index) of ``width`` values that every row starts from; 0 if left out
    unsigned : left values are uint8
    """
    tall, wide = -(-rows // TILE_ROWS), width // TILE_ROWS
    assert tall * wide <= 4
    dot = tiles.weighted_dot if unsigned else tiles.dot
    lefts = [4 + r for r in range(tall)]
    rights = [4 + tall + v % (4 - tall) for v in range(wide)]
    for c in range(tall * wide):
        if initial is None:
            tiles.zero(c)
        else:
            tiles.load(c, initial[0], initial[1] + c % wide * TILE_ROWS, 0)

    def step(k: Expr) -> None:
        for r, tile in enumerate(lefts):
            place = left.start + k * left.step + r * TILE_ROWS * left.stride
            tiles.load(tile, left.buffer, place, left.stride)
        for v, tile in enumerate(rights):
            place = right.start + k * right.step + v * TILE_BYTES
            tiles.load(tile, right.buffer, place, right.stride)
            for r, left_tile in enumerate(lefts):
                dot(r * wide + v, left_tile, tile)

    steps = depth // TILE_BYTES
    if steps <= UNROLL:
        for k in range(steps):
            step(T.int32(k))
    else:
        with T.serial(0, steps) as k:
            step(k)
    for c in range(tall * wide):
        row, v = divmod(c, wide)
        tiles.store(c, sums.buffer, sums.start + TILE_ROWS * (row * width + v), 4 * width)
