"""int8 GEMM with fused epilogues: one generator for all ISAs, shapes and left operands.

Rows are cut into blocks of whole row tiles, which run in parallel; a block packs its left rows
once (:mod:`packing`), then visits the right panels (each stays in L1 while all row tiles of the
block use it) and hands finished tiles to the epilogue. Odd sizes get their own narrower tiles, so
edges run the same code as the bulk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.epilogue import Epilogue, emit_epilogue
from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.micro_kernel import emit_micro_kernel, word_dtype
from iseg_tvm.kernels.packing import PanelLayout, round_up
from iseg_tvm.kernels.tiles import emit_tiles, load_vector, store_vector
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, flat, load, scratch, store

PackRows = Callable[[Buffer, Expr, Expr], None]
"""(destination, first row of the matrix, number of rows): packs the left rows of a block."""

LEFT_BLOCK_BYTES = 192 * 1024
"""Packed left rows of a block stay in L2 beside the panel in use."""

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
    row_bytes = round_up(inner, isa.k_group) * np.dtype(isa.a_dtype).itemsize
    by_cache = -(-rows * row_bytes // LEFT_BLOCK_BYTES)
    return min(round_up(max(by_cache, TASKS), TASKS // 2), tiles)


def emit_gemm(
    gemm: Gemm, pack_rows: PackRows, right: Buffer,
    constants: Sequence[Buffer], skip: Buffer | None, table: Buffer | None, out: Buffer,
) -> None:  # fmt: skip
    """Emit the parallel loop over row blocks."""
    isa, layout = gemm.isa, gemm.layout
    full_group = layout.group * isa.lanes == isa.vector_bytes
    in_registers = table if isa.table_lookup is not None and full_group else None
    with T.parallel(0, gemm.tasks) as block:
        packed = scratch(gemm.block_rows * layout.depth, isa.a_dtype)
        words = flat(packed, word_dtype(isa), gemm.block_rows * layout.depth // isa.k_group)
        first = T.Bind(block * gemm.tiles // gemm.tasks * isa.rows)
        end = T.min(gemm.rows, (block + 1) * gemm.tiles // gemm.tasks * isa.rows)
        present = T.Bind(end - first)
        pack_rows(packed, first, present)

        def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
            _emit_tile(
                gemm, words, first, row, rows, right, panel, width, real, constants,
                skip, in_registers, out,
            )  # fmt: skip

        emit_tiles(layout, present, gemm.rows % isa.rows, block == gemm.tasks - 1, tile)
        if table is not None and in_registers is None:
            _emit_table(gemm, table, out, first, present)


def _emit_tile(
    gemm: Gemm, words: Buffer, first: Expr, row: Expr, rows: int, right: Buffer,
    panel: Expr, width: int, real: int, constants: Sequence[Buffer], skip: Buffer | None,
    table: Buffer | None, out: Buffer,
) -> None:  # fmt: skip
    isa, layout, epilogue = gemm.isa, gemm.layout, gemm.epilogue
    lanes, stride = isa.lanes, layout.depth // isa.k_group
    column = panel * isa.columns
    bias = [T.Bind(load(constants[0], column + v, lanes)) for v in range(0, width, lanes)]
    accumulators = emit_micro_kernel(
        isa, gemm.dot, words, row * stride, stride, rows, right, layout.offset(panel),
        width, layout.depth, bias,
    )  # fmt: skip
    step = layout.group * lanes
    for r, accumulator in enumerate(accumulators):
        base = (first + row + r) * gemm.columns + column
        for g in range(0, width, step):
            valid = real - g
            totals = [load(accumulator, g + v, lanes) for v in range(0, step, lanes)]
            old = None if skip is None else load_vector(skip, base + g, "int16", step, valid)
            result = emit_epilogue(isa, epilogue, totals, column + g, constants, old, table)
            store_vector(out, base + g, result, epilogue.dtype, step, valid)


def _emit_table(gemm: Gemm, table: Buffer, out: Buffer, first: Expr, present: Expr) -> None:
    """Table activation over the block's finished rows, still in cache."""
    isa, start, count = gemm.isa, first * gemm.columns, present * gemm.columns
    done = T.int32(0)
    if isa.table_lookup is not None:
        lanes = isa.vector_bytes
        done = T.Bind(count // lanes * lanes)
        with T.serial(0, count // lanes) as i:
            index = start + i * lanes
            result = isa.table_lookup(table, T.Bind(load(out, index, lanes)), lanes)
            store(out, index, result, lanes)
    with T.serial(done, count) as i:
        index = start + i
        store(out, index, table[cast(out[index], "int32", 1) + 128], 1)
