"""int8 GEMM with fused epilogues: one generator for all ISAs, shapes and left operands.

Rows are cut into blocks of whole row tiles, which run in parallel; a block packs its left rows
once (:mod:`packing`), then visits the right panels (each stays in L1 while all row tiles of the
block use it) and hands finished tiles to the epilogue. Odd sizes get their own narrower tiles, so
edges run the same code as the bulk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.epilogue import Epilogue, emit_epilogue
from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.micro_kernel import emit_micro_kernel, word_dtype
from iseg_tvm.kernels.packing import PanelLayout, round_up
from iseg_tvm.kernels.table import emit_tables
from iseg_tvm.kernels.tile_unit import (
    TILE_ROWS,
    TileOperand,
    TileProduct,
    Tiles,
    panel_operand,
    requested,
    row_operand,
    tile_scratch,
)
from iseg_tvm.kernels.tiles import emit_tiles, load_vector, store_vector
from iseg_tvm.kernels.vector import Buffer, Expr, T, flat, load, scratch, when
from iseg_tvm.operator_limits import ACTIVATION_GROUP

PackRows = Callable[[Buffer, Expr, Expr], None]
"""(destination, first row of the matrix, number of rows): packs the left rows of a block."""


@dataclass(frozen=True)
class LeftRows:
    """How a kernel gets its left rows.

    Attributes
    ----------
    in_place : flat matrix that already has the packed form; None if every row must be packed
    """

    pack: PackRows
    in_place: Buffer | None = None


TASKS = 8
"""Tasks are a multiple of half of this, so that 2 and 4 threads get equal shares."""


@dataclass(frozen=True)
class Gemm:
    """Shape and blocking of one product ``(rows, inner) x (inner, columns)``.

    Attributes
    ----------
    tasks : parallel blocks of rows; each gets as many row tiles as the others, give or take one
    dot : the ISA's dot product that the right operand's values allow
    """

    isa: Isa
    rows: int
    columns: int
    inner: int
    tasks: int
    epilogue: Epilogue
    dot: Dot

    @property
    def layout(self) -> PanelLayout:
        """Of the right operand."""
        group = self.epilogue.group(self.isa.vectors)
        return PanelLayout(self.isa, self.columns, self.inner, group)

    @property
    def tiles(self) -> int:
        """Row tiles, the last one maybe short."""
        return -(-self.rows // self.isa.rows)

    @property
    def block_rows(self) -> int:
        """Most rows that a block has."""
        return -(-self.tiles // self.tasks) * self.isa.rows


def default_tasks(isa: Isa, rows: int, inner: int) -> int:
    """Number of row blocks: some for every thread, left rows of each within their share of L2."""
    tiles = -(-rows // isa.rows)
    row_bytes = isa.depth(inner) * np.dtype(isa.a_dtype).itemsize
    by_cache = -(-rows * row_bytes // isa.left_block_bytes)
    return min(round_up(max(by_cache, TASKS), TASKS // 2), tiles)


def emit_gemm(
    gemm: Gemm, left: LeftRows, right: Buffer,
    constants: Sequence[Buffer], skip: Buffer | None, tables: Buffer | None, out: Buffer,
) -> None:  # fmt: skip
    """Emit the parallel loop over row blocks."""
    isa, layout = gemm.isa, gemm.layout
    in_registers = tables if _looks_up_in_registers(gemm) else None
    operands = _Operands(right, constants, skip, in_registers, out)
    with requested(isa.tile_unit), T.parallel(0, gemm.tasks) as block, _task(gemm) as (tiles, sums):
        first = T.Bind(block * gemm.tiles // gemm.tasks * isa.rows)
        end = T.min(gemm.rows, (block + 1) * gemm.tiles // gemm.tasks * isa.rows)
        present = T.Bind(end - first)
        rest, is_last = gemm.rows % isa.rows, block == gemm.tasks - 1
        if left.in_place is None:
            allocate = scratch if tiles is None else tile_scratch
            packed = allocate(gemm.block_rows * layout.depth, isa.a_dtype)
            left.pack(packed, first, present)
        elif rest:
            packed = tile_scratch(isa.rows * layout.depth, isa.a_dtype)
            with when(is_last):
                left.pack(packed, end - rest, T.int32(rest))

        def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
            place = _Place(first + row, rows, panel, width, real)
            if left.in_place is None:
                source, start = packed, row
            elif rows == isa.rows:
                source, start = left.in_place, first + row
            else:
                source, start = packed, T.int32(0)
            if tiles is None:
                _emit_register_tile(gemm, source, start, place, operands)
            else:
                _emit_unit_tile(gemm, tiles, sums, source, start, place, operands)

        emit_tiles(layout, present, rest, is_last, tile)
        if tables is not None and in_registers is None:
            emit_tables(isa, gemm.epilogue.tables, tables, out, first, present, gemm.columns)


def _looks_up_in_registers(gemm: Gemm) -> bool:
    """Whether results fill registers, whose columns then share a table, and these can look up."""
    isa = gemm.isa
    if isa.table_lookup is None or gemm.layout.group * isa.lanes != isa.vector_bytes:
        return False
    assert ACTIVATION_GROUP % isa.vector_bytes == 0
    assert isa.columns % isa.vector_bytes == 0
    return True


@dataclass(frozen=True)
class _Operands:
    """What every tile of a product reads and writes beside its left rows."""

    right: Buffer
    constants: Sequence[Buffer]
    skip: Buffer | None
    tables: Buffer | None
    out: Buffer


@dataclass(frozen=True)
class _Place:
    """A tile of the result: first row, rows, panel, its width, its columns that are real."""

    row: Expr
    rows: int
    panel: Expr
    width: int
    real: int


@contextmanager
def _task(gemm: Gemm) -> Iterator[tuple[Tiles | None, Buffer | None]]:
    """Body of a parallel task: its tile registers, if there are any, and where they are stored."""
    isa = gemm.isa
    if isa.tile_unit is None:
        yield None, None
        return
    with isa.tile_unit.open() as tiles:
        yield tiles, tile_scratch(isa.rows * isa.columns, "int32")


def _emit_register_tile(
    gemm: Gemm, left: Buffer, start: Expr, place: _Place, operands: _Operands
) -> None:
    """Product in accumulators; every row's epilogue is written out."""
    isa, layout = gemm.isa, gemm.layout
    lanes, stride = isa.lanes, layout.depth // isa.k_group
    words = flat(left, word_dtype(isa), int(left.shape[0]) // isa.k_group)
    column = place.panel * isa.columns
    bias = [
        T.Bind(load(operands.constants[0], column + v, lanes)) for v in range(0, place.width, lanes)
    ]
    accumulators = emit_micro_kernel(
        isa, gemm.dot, words, start * stride, stride, place.rows, operands.right,
        layout.offset(place.panel), place.width, layout.depth, bias,
    )  # fmt: skip
    for r, accumulator in enumerate(accumulators):
        _finish_row(gemm, place, operands, r, accumulator, 0)


def _emit_unit_tile(
    gemm: Gemm, tiles: Tiles, sums: Buffer, left: Buffer, start: Expr, place: _Place,
    operands: _Operands,
) -> None:  # fmt: skip
    """Product in tile registers; their rows go through the epilogue in a loop."""
    layout, width = gemm.layout, place.width
    product = TileProduct(tiles, -(-place.rows // TILE_ROWS), width // TILE_ROWS, layout.depth)
    product.multiply(
        row_operand(left, start * layout.depth, layout.depth),
        panel_operand(operands.right, layout.offset(place.panel), width),
        (operands.constants[0], place.panel * gemm.isa.columns),
    )
    product.store(TileOperand(sums, T.int32(0), 4 * width, TILE_ROWS * width, TILE_ROWS))
    with T.serial(0, place.rows) as r:
        _finish_row(gemm, place, operands, r, sums, r * width)


def _finish_row(
    gemm: Gemm, place: _Place, operands: _Operands, row: Expr, sums: Buffer, start: Expr
) -> None:
    """Epilogue of one row of a tile, whose sums begin at ``sums[start]``."""
    isa, layout, epilogue = gemm.isa, gemm.layout, gemm.epilogue
    column = place.panel * isa.columns
    base = (place.row + row) * gemm.columns + column
    step = layout.group * isa.lanes
    for g in range(0, place.width, step):
        valid = place.real - g
        totals = [load(sums, start + g + v, isa.lanes) for v in range(0, step, isa.lanes)]
        old = None
        if operands.skip is not None:
            old = load_vector(operands.skip, base + g, "int16", step, valid)
        result = emit_epilogue(
            isa, epilogue, totals, column + g, operands.constants, old, operands.tables
        )
        store_vector(operands.out, base + g, result, epilogue.dtype, step, valid)
