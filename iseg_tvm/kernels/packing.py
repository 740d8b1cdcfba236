"""Layouts of GEMM operands.

Left operand, per row block: ``[rows / row_group][Kp / k_group][row_group][k_group]`` in
``isa.a_dtype``, Kp = K padded (``isa.depth``); that is ``[rows][Kp]`` where ``row_group`` is 1.
Right operand: panels of ``isa.columns`` columns, ``[panel][Kp / k_group][columns][k_group]`` int8;
the last panel is as narrow as whole groups of vectors allow. Padding is zero on the right, so the
padded left values do not matter. Inside a group the columns stand in the order that the
saturating packs of the epilogue turn back into memory order (:func:`packed_order`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    T,
    cast,
    constant_vector,
    flat,
    load,
    reinterpret,
    scratch,
    spans,
    splat,
    store,
    when,
)


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def packed_order(isa: Isa, group: int, merged: int = 1) -> np.ndarray:
    """Column, within its group, of every lane of ``group`` accumulators.

    ``narrow16`` and ``narrow8`` take ``pack_lanes`` lanes from their operands in turn, so packing
    ``group`` vectors to one interleaves them; this order undoes it.

    Parameters
    ----------
    group : vectors that one result vector is packed from (1, 2 or 4)
    merged : vectors already packed into one (2 after ``narrow16``)

    Returns
    -------
    int64 (group * lanes,); the identity for ``merged = group``
    """
    units = isa.lanes // isa.pack_lanes
    columns = np.arange(group * isa.lanes).reshape(units, group // merged, merged * isa.pack_lanes)
    return columns.transpose(1, 0, 2).reshape(-1)


@dataclass(frozen=True)
class PanelLayout:
    """Right operand of N columns and inner size K for one ISA.

    Attributes
    ----------
    group : vectors whose columns are interleaved for one packed result
    depth : K after padding
    full : number of panels of ``isa.columns`` columns
    tail : columns in the last, narrow panel, a multiple of ``group * isa.lanes`` (0: none)
    """

    isa: Isa
    columns: int
    inner: int
    group: int = 1

    @property
    def depth(self) -> int:
        """Inner size after padding."""
        return self.isa.depth(self.inner)

    @property
    def full(self) -> int:
        """Panels of full width."""
        return self.columns // self.isa.columns

    @property
    def tail(self) -> int:
        """Width of the narrow last panel."""
        return round_up(self.columns % self.isa.columns, self.group * self.isa.lanes)

    @property
    def padded_columns(self) -> int:
        """Columns after padding."""
        return self.full * self.isa.columns + self.tail

    @property
    def size(self) -> int:
        """Bytes of the packed operand."""
        return self.padded_columns * self.depth

    def order(self, merged: int = 1) -> np.ndarray:
        """Column held by every lane of all panels, padding included; int64 (padded_columns,)."""
        within = packed_order(self.isa, self.group, merged)
        starts = np.arange(0, self.padded_columns, within.size)
        return (starts[:, None] + within).reshape(-1)

    def offset(self, panel: Expr) -> Expr:
        """First byte of a panel."""
        return panel * (self.isa.columns * self.depth)


def pack_weight(weight: np.ndarray, layout: PanelLayout) -> np.ndarray:
    """Pack int8 (N, K) at compile time into :class:`PanelLayout` order; int8 (size,)."""
    isa = layout.isa
    padded = np.zeros((layout.padded_columns, layout.depth), dtype=np.int8)
    padded[: layout.columns, : layout.inner] = weight
    padded = padded[layout.order()]
    pieces, start = [], 0
    for width in [isa.columns] * layout.full + ([layout.tail] if layout.tail else []):
        panel = padded[start : start + width].reshape(width, -1, isa.k_group)
        pieces.append(panel.transpose(1, 0, 2).reshape(-1))
        start += width
    return np.concatenate(pieces)


def pack_columns(
    values: np.ndarray, layout: PanelLayout, dtype: str, merged: int = 1
) -> np.ndarray:
    """Per-column constants (N,) in the order of the accumulators' lanes, zero padded."""
    padded = np.zeros(layout.padded_columns, dtype=dtype)
    padded[: values.shape[0]] = values
    return padded[layout.order(merged)]


def offset_correction(weight: np.ndarray, isa: Isa) -> np.ndarray:
    """``-a_offset * sum_k weight[n, k]``, added to the bias for offset left operands; int64."""
    return -isa.a_offset * weight.astype(np.int64).sum(axis=1)


def left_value(value: Expr, isa: Isa, lanes: int) -> Expr:
    """An int8 activation in the form left operands are packed in."""
    if isa.a_dtype == "uint8":
        flipped = value ^ splat(-128, "int8", lanes)
        return cast(flipped, "uint8", lanes)
    return cast(value, isa.a_dtype, lanes)


def left_index(isa: Isa, row: Expr, k: Expr, depth: int) -> Expr:
    """Where value ``k`` of a row lies in a packed left operand."""
    rows, group = isa.row_group, isa.k_group
    if rows == 1:
        return row * depth + k
    place = T.floordiv(row, rows) * (rows * depth) + T.floormod(row, rows) * group
    return place + T.floordiv(k, group) * (rows * group) + T.floormod(k, group)


def store_left(
    isa: Isa, destination: Buffer, row: Expr, k: Expr, depth: int, value: Expr, lanes: int
) -> None:
    """Store values ``k`` to ``k + lanes`` of a packed left row; ``k`` a multiple of ``lanes``.

    Interleaved rows take whole words, or values of one word: one of ``lanes`` and ``k_group`` is a
    multiple of the other, and the values are int8.
    """
    if isa.row_group == 1 or isa.k_group % lanes == 0:
        store(destination, left_index(isa, row, k, depth), value, lanes)
        return
    group, count = isa.k_group, lanes // isa.k_group
    word = f"int{8 * group}"
    view = flat(destination, word, int(destination.shape[0]) // group)
    words = T.Bind(reinterpret(value, word, count))
    first = T.Bind(T.floordiv(left_index(isa, row, k, depth), group))
    for i in range(count):
        one = words if count == 1 else T.Shuffle([words], [T.int32(i)])
        store(view, first + i * isa.row_group, one, 1)


def store_left_partial(
    isa: Isa, destination: Buffer, row: Expr, k: Expr, depth: int, value: Expr, lanes: int,
    valid: int,
) -> None:  # fmt: skip
    """:func:`store_left` of the first ``valid`` lanes."""
    if valid >= lanes:
        store_left(isa, destination, row, k, depth, value, lanes)
        return
    partial = scratch(lanes, isa.a_dtype)
    store(partial, 0, value, lanes)
    for lane in range(valid):
        store_left(isa, destination, row, k + lane, depth, partial[lane], 1)


def emit_pack_left_row(
    isa: Isa, destination: Buffer, row: Expr, depth: int, source: Buffer, start: Expr, inner: int
) -> None:
    """Pack one row of ``inner`` consecutive int8 values at ``source[start]``."""
    lanes = isa.vector_bytes // (1 if isa.a_dtype == "int8" else 2)
    count, tail = spans(inner, lanes)
    with T.serial(0, count) as k:
        value = _flipped(isa, load(source, start + k * lanes, lanes), 0, lanes)
        store_left(isa, destination, row, k * lanes, depth, left_value(value, isa, lanes), lanes)
    for k in range(tail, inner):
        value = _flipped(isa, load(source, start + k, 1), k, 1)
        store_left(isa, destination, row, T.int32(k), depth, left_value(value, isa, 1), 1)
    for k in range(inner, depth):
        store_left(isa, destination, row, T.int32(k), depth, splat(0, isa.a_dtype, 1), 1)


def _flipped(isa: Isa, value: Expr, k: int, lanes: int) -> Expr:
    """Apply ``left_flip`` to int8 values ``k`` to ``k + lanes``, of whole groups or of one."""
    if not isa.left_flip:
        return value
    pattern = np.array(isa.left_flip, np.uint8).view(np.int8)
    if lanes == 1:
        return value ^ T.IntImm("int8", int(pattern[k % isa.k_group]))
    return value ^ constant_vector(np.resize(pattern, lanes))


def column_of(layout: PanelLayout, lane: Expr) -> Expr:
    """:func:`packed_order` as an expression: the column that lane ``lane`` holds."""
    isa, group = layout.isa, layout.group
    if group == 1:
        return lane
    whole = group * isa.lanes
    inside = lane % whole
    vector, element = inside // isa.lanes, inside % isa.lanes
    unit, offset = element // isa.pack_lanes, element % isa.pack_lanes
    return lane - inside + (unit * group + vector) * isa.pack_lanes + offset


def emit_pack_right(
    layout: PanelLayout, destination: Buffer, base: Expr, source: Buffer, start: Expr,
    column_stride: int, inner_stride: int,
) -> None:  # fmt: skip
    """Pack a right operand at run time.

    Element (n, k) is ``source[start + n * column_stride + k * inner_stride]``. Padding is written
    too, so ``destination`` need not be cleared.
    """
    isa, group = layout.isa, layout.isa.k_group
    widths = [(0, layout.full, isa.columns)] if layout.full else []
    if layout.tail:
        widths.append((layout.full, 1, layout.tail))
    for first, count, width in widths:
        with T.serial(0, count) as p, T.serial(0, layout.depth // group) as g:
            panel = base + layout.offset(first + p)
            with T.serial(0, width) as n:
                column = (first + p) * isa.columns + column_of(layout, n)
                for j in range(group):
                    k = g * group + j
                    target = panel + (g * width + n) * group + j
                    inside = T.And(column < layout.columns, k < layout.inner)
                    element = source[start + column * column_stride + k * inner_stride]
                    value = T.if_then_else(inside, element, T.int8(0))
                    store(destination, target, value, 1)


def emit_right_sums(
    layout: PanelLayout, destination: Buffer, base: Expr, source: Buffer, start: Expr,
    column_stride: int, inner_stride: int, factor: int,
) -> None:  # fmt: skip
    """Write ``factor * sum_k element(n, k)`` for the real columns, int32; 0 for padding."""
    with T.serial(0, layout.padded_columns) as n:
        store(destination, base + n, T.int32(0), 1)
        column = column_of(layout, n)
        with when(column < layout.columns), T.serial(0, layout.inner) as k:
            element = cast(source[start + column * column_stride + k * inner_stride], "int32", 1)
            store(destination, base + n, destination[base + n] + element * T.int32(factor), 1)
