"""Keys and values of all heads in panel order: the right operands of attention's two products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.micro_kernel import Accumulators, emit_micro_kernel, word_dtype
from iseg_tvm.kernels.packing import PanelLayout, column_of, emit_pack_right, packed_order
from iseg_tvm.kernels.shiftmax import packed_zero_weight
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    T,
    flat,
    load,
    reinterpret,
    scratch,
    splat,
    store,
)

PADDING_LOGIT = -(2**30)
"""Below every logit; its distance to any of them fits int32."""


@dataclass(frozen=True)
class KeyLayout(PanelLayout):
    """Panels of keys; the last one leaves out the vectors that would hold padding alone."""

    @property
    def tail(self) -> int:
        """Width of the narrow last panel, a multiple of the lanes."""
        isa = self.isa
        groups, rest = divmod(self.columns % isa.columns, self.group * isa.lanes)
        vectors = groups * self.group + min(self.group, -(-rest // isa.pack_lanes))
        return vectors * isa.lanes


@dataclass(frozen=True)
class PackedOperand:
    """Keys or values of all heads in panel order.

    Attributes
    ----------
    starts : int32, where the accumulator of each column starts; None for 0
    """

    layout: PanelLayout
    panels: Buffer
    starts: Buffer | None

    def accumulate(
        self, words: Buffer, row: Expr, stride: int, rows: int, head: Expr, panel: Expr, width: int
    ) -> Accumulators:
        """Product of ``rows`` packed left rows (``stride`` words apart) with a head's panel."""
        layout, isa = self.layout, self.layout.isa
        initial = None
        if self.starts is not None:
            column = head * layout.padded_columns + panel * isa.columns
            initial = [
                T.Bind(load(self.starts, column + v, isa.lanes)) for v in range(0, width, isa.lanes)
            ]
        start = head * layout.size + layout.offset(panel)
        return emit_micro_kernel(
            isa, isa.dot, words, row * stride, stride, rows, self.panels, start, width,
            layout.depth, initial,
        )  # fmt: skip


def allocate(layout: PanelLayout, heads: int, has_starts: bool) -> PackedOperand:
    """Buffers for all heads."""
    starts = scratch(heads * layout.padded_columns, "int32") if has_starts else None
    return PackedOperand(layout, scratch(heads * layout.size, "int8"), starts)


def emit_pack_keys(
    operand: PackedOperand, head: Expr, qkv: Buffer, qkv_size: int, start: Expr, stride: int
) -> None:  # fmt: skip
    """Pack one head's keys; ``qkv[start + n * stride + k]`` is value k of key n.

    Accumulators start at the correction of the left operand's offset, those of padding lower
    than any logit.
    """
    layout, isa = operand.layout, operand.layout.isa
    base = T.Bind(head * layout.size)
    if layout.inner % isa.k_group == 0:
        _emit_pack_words(layout, operand.panels, base, qkv, qkv_size, start, stride)
    else:
        emit_pack_right(layout, operand.panels, base, qkv, start, stride, 1)
    zero = np.array(isa.left_flip or (0,) * isa.k_group, np.uint8) ^ np.uint8(isa.a_offset)
    emit_starts(operand, head, zero)
    assert operand.starts is not None
    first = head * layout.padded_columns + layout.full * isa.columns
    for lane, column in enumerate(packed_tail(layout).tolist()):
        if column >= layout.columns % isa.columns:
            store(operand.starts, first + lane, T.int32(PADDING_LOGIT), 1)


def packed_tail(layout: PanelLayout) -> np.ndarray:
    """Column, within the last panel, of each of its lanes."""
    whole = layout.group * layout.isa.lanes
    groups = -(-layout.tail // whole)
    order = packed_order(layout.isa, layout.group)
    return (np.arange(groups)[:, None] * whole + order).reshape(-1)[: layout.tail]


def _emit_pack_words(
    layout: PanelLayout, panels: Buffer, base: Expr, qkv: Buffer, qkv_size: int, start: Expr,
    stride: int,
) -> None:  # fmt: skip
    """Move ``k_group`` values at a time."""
    isa, group = layout.isa, layout.isa.k_group
    dtype, lanes = _word(group)
    unit = group // lanes
    source = flat(qkv, dtype, qkv_size // unit)
    target = flat(panels, dtype, int(panels.shape[0]) // unit)
    steps = layout.depth // group

    def panel(index: Expr, width: int, real: int) -> None:
        first = T.Bind((base + layout.offset(index)) // unit)
        with T.serial(0, width) as n:
            inside = T.Bind(column_of(layout, n))
            column = index * isa.columns + inside
            begin = T.Bind((start + column * stride) // unit)
            with T.serial(0, steps) as k:
                word = load(source, begin + k * lanes, lanes)
                if real < width:
                    word = T.if_then_else(inside < real, word, splat(0, dtype, lanes))
                store(target, first + (k * width + n) * lanes, word, lanes)

    if layout.full:
        with T.serial(0, layout.full) as p:
            panel(p, isa.columns, isa.columns)
    if layout.tail:
        panel(T.int32(layout.full), layout.tail, layout.columns % isa.columns)


def _word(size: int) -> tuple[str, int]:
    """Type and lanes of ``size`` bytes: one integer, or as many of the largest as it takes."""
    largest = min(size, 8)
    return f"int{8 * largest}", size // largest


def emit_pack_values(
    operand: PackedOperand, head: Expr, qkv: Buffer, start: Expr, stride: int
) -> None:
    """Pack one head's values; ``qkv[start + j * stride + n]`` is column n of key j.

    Accumulators start at the correction for weights that are packed with an offset.
    """
    layout = operand.layout
    base = T.Bind(head * layout.size)
    if layout.columns == layout.padded_columns:
        _emit_interleave(layout, operand.panels, base, qkv, start, stride)
    else:
        emit_pack_right(layout, operand.panels, base, qkv, start, 1, stride)
    if operand.starts is not None:
        emit_starts(operand, head, packed_zero_weight(layout.isa))


def _emit_interleave(
    layout: PanelLayout, panels: Buffer, base: Expr, qkv: Buffer, start: Expr, stride: int
) -> None:
    """Interleave ``k_group`` rows of values, a group of vectors at a time."""
    isa, depth = layout.isa, layout.isa.k_group
    whole = layout.group * isa.lanes
    widths = [isa.columns] * layout.full + ([layout.tail] if layout.tail else [])

    def step(k: Expr, rows: int) -> None:
        for panel, width in enumerate(widths):
            target = base + panel * isa.columns * layout.depth + k * (width * depth)
            for g in range(0, width, whole):
                column = start + panel * isa.columns + g
                vectors = [
                    T.Bind(load(qkv, column + (k * depth + j) * stride, whole))
                    if j < rows
                    else splat(0, "int8", whole)
                    for j in range(depth)
                ]
                for v, vector in enumerate(interleaved(isa, layout.group, vectors)):
                    size = isa.lanes * depth
                    store(panels, target + g * depth + v * size, vector, size)

    full, rest = divmod(layout.inner, depth)
    if full:
        with T.serial(0, full) as k:
            step(k, depth)
    if rest:
        step(T.int32(full), rest)


def interleaved(isa: Isa, group: int, rows: list[Expr]) -> list[Expr]:
    """Turn rows of ``group * lanes`` bytes into ``group`` vectors of words of one byte a row.

    Where packs work within 128 bits, so do the interleaving instructions: ``vpunpck``, ``zip``.
    """
    width = group * isa.lanes
    if len(rows) == group == isa.pack_lanes == 4:
        words = [
            T.Bind(reinterpret(_unpack(pair, 16, width, half), "int16", width // 2))
            for half in (0, 1)
            for pair in (rows[:2], rows[2:])
        ]
        vectors = [
            _unpack(pair, 8, width // 2, half) for pair in (words[:2], words[2:]) for half in (0, 1)
        ]
        return [T.Bind(reinterpret(vector, "int8", width)) for vector in vectors]
    order = packed_order(isa, group).reshape(group, isa.lanes).tolist()
    return [
        _pick(rows, [column + j * width for column in columns for j in range(len(rows))])
        for columns in order
    ]


def _unpack(pair: list[Expr], unit: int, width: int, half: int) -> Expr:
    """Lower (0) or upper (1) half of every ``unit`` lanes of two vectors, interleaved."""
    columns = np.arange(width).reshape(-1, 2, unit // 2)[:, half].reshape(-1).tolist()
    return _pick(pair, [column + j * width for column in columns for j in (0, 1)])


def _pick(vectors: list[Expr], lanes: list[int]) -> Expr:
    """Lanes of concatenated vectors."""
    return T.Bind(T.Shuffle(vectors, [T.int32(lane) for lane in lanes]))


def emit_starts(operand: PackedOperand, head: Expr, zero: np.ndarray) -> None:
    """Let a head's accumulators start where a left row of zeros ends at 0.

    ``zero``, uint8 (k_group,), is a group of zeros in the left-operand format; it differs from 0
    where packed values have an offset or flipped bits.
    """
    layout, isa, starts = operand.layout, operand.layout.isa, operand.starts
    assert starts is not None
    first = head * layout.padded_columns
    if not zero.any():
        with T.serial(0, layout.padded_columns) as n:
            store(starts, first + n, T.int32(0), 1)
        return
    steps = layout.depth // isa.k_group
    zeros = scratch(isa.row_group * layout.depth, isa.a_dtype)
    words = flat(zeros, word_dtype(isa), isa.row_group * steps)
    values = flat(zeros, "int32", isa.row_group * layout.depth // 4)
    with T.serial(0, isa.row_group * steps) as group:
        for i, word in enumerate(zero.view(np.int32).tolist()):
            store(values, group * (isa.k_group // 4) + i, T.int32(word), 1)

    def panel(index: Expr, width: int) -> None:
        (product,) = emit_micro_kernel(
            isa, isa.dot, words, T.int32(0), steps, 1, operand.panels,
            head * layout.size + layout.offset(index), width, layout.depth,
        )  # fmt: skip
        for v in range(0, width, isa.lanes):
            value = splat(0, "int32", isa.lanes) - load(product, v, isa.lanes)
            store(starts, first + index * isa.columns + v, value, isa.lanes)

    if layout.full:
        with T.serial(0, layout.full) as index:
            panel(index, isa.columns)
    if layout.tail:
        panel(T.int32(layout.full), layout.tail)
