"""Walking a row block tile by tile, edges included, and storing vectors that may be partial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from iseg_tvm.kernels.packing import PanelLayout
from iseg_tvm.kernels.vector import Buffer, Expr, T, load, scratch, splat, store, when

Tile = Callable[[Expr, int, Expr, int, int], None]
"""(first row, rows, panel, panel width, real columns of the panel): emits one tile."""


def emit_tiles(layout: PanelLayout, present: Expr, rest: int, is_last: Expr, tile: Tile) -> None:
    """Visit every panel, and within it every row tile of the block.

    Parameters
    ----------
    present : rows of the block that exist (only the last block may be short)
    rest : rows of the last block beyond its full tiles: a narrower tile of its own
    is_last : condition that the block is the last
    """
    isa = layout.isa
    for panel, width, real in _panels(layout):
        with panel as p:
            with T.serial(0, T.floordiv(present, isa.rows)) as t:
                tile(t * isa.rows, isa.rows, p, width, real)
            if rest:
                with when(is_last):
                    tile(present - rest, rest, p, width, real)


def _panels(layout: PanelLayout) -> list[tuple[Any, int, int]]:
    """Loops over full panels and over the last one: (loop, width, columns that are real)."""
    panels: list[tuple[Any, int, int]] = []
    if layout.full:
        panels.append((T.serial(0, layout.full), layout.isa.columns, layout.isa.columns))
    if layout.tail:
        panels.append((_single(layout.full), layout.tail, layout.columns % layout.isa.columns))
    return panels


@contextmanager
def _single(index: int) -> Iterator[Expr]:
    yield T.int32(index)


def store_vector(
    buffer: Buffer, index: Expr, value: Expr, dtype: str, lanes: int, valid: int
) -> None:
    """Store the first ``valid`` lanes; a partial vector goes through a small buffer."""
    if valid >= lanes:
        store(buffer, index, value, lanes)
        return
    partial = scratch(lanes, dtype)
    store(partial, 0, value, lanes)
    for lane in range(valid):
        store(buffer, index + lane, partial[lane], 1)


def load_vector(buffer: Buffer, index: Expr, dtype: str, lanes: int, valid: int) -> Expr:
    """Load ``valid`` lanes, the others 0, without reading past them."""
    if valid >= lanes:
        return load(buffer, index, lanes)
    partial = scratch(lanes, dtype)
    store(partial, 0, splat(0, dtype, lanes), lanes)
    for lane in range(valid):
        store(partial, lane, buffer[index + lane], 1)
    return load(partial, 0, lanes)
