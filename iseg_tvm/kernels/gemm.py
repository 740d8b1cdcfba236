"""int8 GEMM with fused epilogues: linear layers, patch embedding, activation products.

One generator for all ISAs and shapes. Rows are cut into blocks, which run in parallel; a block
packs its left rows once (:mod:`packing`), then visits the right panels (each stays in L1 while
all row tiles of the block use it) and hands finished tiles to the epilogue. Odd sizes
get their own narrower tiles, so edges run the same code as the bulk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from iseg_tvm.kernels.epilogue import Epilogue, emit_epilogue
from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.micro_kernel import emit_micro_kernel, word_dtype
from iseg_tvm.kernels.packing import (
    PanelLayout,
    emit_pack_left_row,
    emit_pack_right,
    emit_right_sums,
    left_value,
    offset_correction,
    pack_weight,
    round_up,
)
from iseg_tvm.kernels.tiles import emit_tiles, load_vector, store_vector
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    cast,
    flat,
    kernel,
    load,
    scratch,
    splat,
    store,
)
from relay_ops.operator import Lowering, LoweringContext, Space

PackRow = Callable[[Buffer, Expr, Expr], None]
"""(destination, row inside the block, row of the matrix): packs one left row."""

Parameter = tuple[str, tuple[int, ...], str]
"""(name, shape, dtype) of a kernel's buffer."""

LEFT_BLOCK_BYTES = 192 * 1024
"""Packed left rows of a block stay in L2 beside the panel in use."""


@dataclass(frozen=True)
class Gemm:
    """Shape and blocking of one product ``(rows, inner) x (inner, columns)``.

    Attributes
    ----------
    block_rows : rows packed and computed by one task, a multiple of ``isa.rows``
    dot : the ISA's dot product that the right operand's values allow
    """

    isa: Isa
    rows: int
    columns: int
    inner: int
    block_rows: int
    epilogue: Epilogue
    dot: Dot

    @property
    def layout(self) -> PanelLayout:
        """Of the right operand."""
        return PanelLayout(self.isa, self.columns, self.inner)

    @property
    def blocks(self) -> int:
        """Parallel tasks."""
        return -(-self.rows // self.block_rows)


def default_block_rows(isa: Isa, rows: int, inner: int) -> int:
    """Block height: at least about eight tasks, left rows within their share of L2."""
    row_bytes = round_up(inner, isa.k_group) * np.dtype(isa.a_dtype).itemsize
    by_cache = max(isa.rows, LEFT_BLOCK_BYTES // row_bytes // isa.rows * isa.rows)
    by_tasks = round_up(-(-rows // 8), isa.rows)
    return min(by_cache, by_tasks)


def emit_gemm(
    gemm: Gemm, pack_row: PackRow, right: Buffer,
    constants: Sequence[Buffer], skip: Buffer | None, table: Buffer | None, out: Buffer,
) -> None:  # fmt: skip
    """Emit the parallel loop over row blocks."""
    isa, layout = gemm.isa, gemm.layout
    with T.parallel(0, gemm.blocks) as block:
        packed = scratch(gemm.block_rows * layout.depth, isa.a_dtype)
        words = flat(packed, word_dtype(isa), gemm.block_rows * layout.depth // isa.k_group)
        first = T.Bind(block * gemm.block_rows)
        present = T.Bind(T.min(gemm.rows - first, gemm.block_rows))
        with T.serial(0, present) as row:
            pack_row(packed, row, first + row)

        def tile(row: Expr, rows: int, panel: Expr, width: int, real: int) -> None:
            _emit_tile(
                gemm, words, first, row, rows, right, panel, width, real, constants,
                skip, out,
            )  # fmt: skip

        rest = gemm.rows % gemm.block_rows % isa.rows
        emit_tiles(layout, present, rest, block == gemm.blocks - 1, tile)
        if table is not None:
            _emit_table(gemm, table, out, first, present)


def _emit_tile(
    gemm: Gemm, words: Buffer, first: Expr, row: Expr, rows: int, right: Buffer,
    panel: Expr, width: int, real: int, constants: Sequence[Buffer], skip: Buffer | None,
    out: Buffer,
) -> None:  # fmt: skip
    isa, layout, epilogue = gemm.isa, gemm.layout, gemm.epilogue
    lanes, stride = isa.lanes, layout.depth // isa.k_group
    accumulators = emit_micro_kernel(
        isa, gemm.dot, words, row * stride, stride, rows, right, layout.offset(panel),
        width, layout.depth,
    )  # fmt: skip
    column = panel * isa.columns
    for r, accumulator in enumerate(accumulators):
        base = (first + row + r) * gemm.columns + column
        for v in range(0, width, lanes):
            valid, total = real - v, load(accumulator, v, lanes)
            old = None if skip is None else load_vector(skip, base + v, "int16", lanes, valid)
            result = emit_epilogue(isa, epilogue, total, column + v, constants, old)
            store_vector(out, base + v, result, epilogue.dtype, lanes, valid)


def _emit_table(gemm: Gemm, table: Buffer, out: Buffer, first: Expr, present: Expr) -> None:
    """Table activation over the block's finished rows, still in cache."""
    with T.serial(0, present * gemm.columns) as i:
        index = first * gemm.columns + i
        store(out, index, table[cast(out[index], "int32", 1) + 128], 1)


def _matrix_rows(gemm: Gemm, matrix: Buffer) -> PackRow:
    """Left rows that are the rows of an int8 matrix."""
    source = flat(matrix, "int8", gemm.rows * gemm.inner)

    def pack_row(destination: Buffer, row: Expr, source_row: Expr) -> None:
        start, depth = source_row * gemm.inner, gemm.layout.depth
        emit_pack_left_row(gemm.isa, destination, row, depth, source, start, gemm.inner)

    return pack_row


def _build_with_weight(
    gemm: Gemm, name: str, left: Parameter, rows_of: Callable[[Buffer], PackRow]
) -> PrimFunc:
    """``(left, packed weight, constants..., [table | skip], out)``."""
    columns = round_up(gemm.columns, gemm.isa.lanes)
    parameters = [
        left,
        ("weight", (gemm.layout.size,), "int8"),
        *((n, (columns,), d) for n, d in gemm.epilogue.constants),
        *_extra_parameters(gemm),
        ("out", (gemm.rows, gemm.columns), gemm.epilogue.dtype),
    ]
    with kernel(name, parameters) as (builder, buffers):
        pack_row = rows_of(buffers[0])
        constants, table, skip, out = _unpack(gemm, buffers[2:])
        emit_gemm(gemm, pack_row, buffers[1], constants, skip, table, out)
    return builder.get()


def build_linear(gemm: Gemm, name: str) -> PrimFunc:
    """``(x, packed weight, constants..., [table | skip], out)``."""
    left = ("x", (gemm.rows, gemm.inner), "int8")
    return _build_with_weight(gemm, name, left, partial(_matrix_rows, gemm))


def build_patch_embed(
    gemm: Gemm, name: str, height: int, width: int, patch: int, pad: Sequence[int]
) -> PrimFunc:
    """``(image, packed weight, constants..., [skip], out)``; no im2col copy of the image."""
    isa, grid_width = gemm.isa, -(-width // patch)

    def patch_rows(buffer: Buffer) -> PackRow:
        image = flat(buffer, "uint8", height * width * 3)

        def pack_row(destination: Buffer, row: Expr, source_row: Expr) -> None:
            depth = gemm.layout.depth
            top = (source_row // grid_width) * patch
            left = (source_row % grid_width) * patch
            with T.serial(0, patch) as dy, T.serial(0, patch) as dx:
                for c in range(3):
                    inside = T.And(top + dy < height, left + dx < width)
                    pixel = image[((top + dy) * width + left + dx) * 3 + c]
                    value = T.if_then_else(inside, pixel, T.uint8(int(pad[c])))
                    signed = cast(value ^ T.uint8(128), "int8", 1)
                    index = row * depth + (dy * patch + dx) * 3 + c
                    store(destination, index, left_value(signed, isa, 1), 1)
            for k in range(gemm.inner, depth):
                store(destination, row * depth + k, splat(0, isa.a_dtype, 1), 1)

        return pack_row

    return _build_with_weight(gemm, name, ("image", (height, width, 3), "uint8"), patch_rows)


def build_matmul(gemm: Gemm, name: str) -> PrimFunc:
    """``(a, b, [shift, multiplier], out)``: the right operand is an activation, packed first."""
    isa, layout, epilogue = gemm.isa, gemm.layout, gemm.epilogue
    columns = round_up(gemm.columns, isa.lanes)
    scales = epilogue.constants[1:]
    parameters = [
        ("a", (gemm.rows, gemm.inner), "int8"),
        ("b", (gemm.columns, gemm.inner), "int8"),
        *(("rounding", (columns,), "int32") for _ in scales[:1]),
        *((n, (columns,), d) for n, d in scales),
        ("out", (gemm.rows, gemm.columns), epilogue.dtype),
    ]
    with kernel(name, parameters) as (builder, buffers):
        pack_row = _matrix_rows(gemm, buffers[0])
        b = flat(buffers[1], "int8", gemm.columns * gemm.inner)
        out = flat(buffers[-1], epilogue.dtype, gemm.rows * gemm.columns)
        packed, bias = scratch(layout.size, "int8"), scratch(layout.padded_columns, "int32")
        emit_pack_right(layout, packed, T.int32(0), b, T.int32(0), gemm.inner, 1)
        emit_right_sums(layout, bias, T.int32(0), b, T.int32(0), gemm.inner, 1, -isa.a_offset)
        if scales:
            with T.serial(0, columns) as n:
                store(bias, n, bias[n] + buffers[2][n], 1)

        constants = [bias, *buffers[3:-1]]
        emit_gemm(gemm, pack_row, packed, constants, None, None, out)
    return builder.get()


def _extra_parameters(gemm: Gemm) -> list[Parameter]:
    if gemm.epilogue.table:
        return [("table", (256,), "int8")]
    if gemm.epilogue.skip_shift is not None:
        return [("skip", (gemm.rows, gemm.columns), "int16")]
    return []


def _unpack(
    gemm: Gemm, buffers: Sequence[Buffer]
) -> tuple[Sequence[Buffer], Buffer | None, Buffer | None, Buffer]:
    """Split (constants..., [table | skip], out) and flatten."""
    count = len(gemm.epilogue.constants)
    size = gemm.rows * gemm.columns
    table = buffers[count] if gemm.epilogue.table else None
    has_skip = gemm.epilogue.skip_shift is not None
    skip = flat(buffers[count], "int16", size) if has_skip else None
    return buffers[:count], table, skip, flat(buffers[-1], gemm.epilogue.dtype, size)


def _gemm_of(context: LoweringContext, rows: int, inner: int, epilogue: Epilogue) -> Gemm:
    isa = context.isa.with_block(context.schedule.get("block", context.isa.block))
    dot = isa.dot
    weight = context.constants.get("weight")
    if isa.weight_dot is not None and weight is not None and weight.min() > -128:
        dot = isa.weight_dot
    wanted = context.schedule.get("block_rows", default_block_rows(isa, rows, inner))
    block_rows = round_up(wanted, isa.rows)
    return Gemm(isa, rows, context.result.shape[1], inner, block_rows, epilogue, dot)


def gemm_space(context: LoweringContext) -> Space:
    """What a tuner may choose: register block, and left rows packed and computed by a task."""
    isa = context.isa
    rows = context.result.shape[0]
    inner = context.types["b" if "b" in context.types else "weight"].shape[1]
    default = default_block_rows(isa, rows, inner)
    others = [n for n in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512) if n < rows]
    return {
        "block": isa.blocks(),
        "block_rows": [default, *(n for n in others if n != default)],
    }


def _weight_arguments(context: LoweringContext, gemm: Gemm) -> list[np.ndarray]:
    """Packed weight and per-column constants."""
    weight, epilogue = context.constant("weight"), gemm.epilogue
    names = [name for name, _ in epilogue.constants]
    values = {name: context.constant(name) for name in names}
    correction = offset_correction(weight, gemm.isa)
    return [pack_weight(weight, gemm.isa), *epilogue.pack(values, correction, gemm.isa)]


def lower_linear(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Linear layer with an optional fused epilogue; tensors named as in ``relay_ops``."""
    epilogue = epilogue or Epilogue("int32")
    rows, inner = context.types["x"].shape
    gemm = _gemm_of(context, rows, inner, epilogue)
    arguments: list[str | np.ndarray] = ["x", *_weight_arguments(context, gemm)]
    arguments += [name for name, _, _ in _extra_parameters(gemm)]
    return Lowering(build_linear(gemm, "linear"), arguments, context.result)


def lower_patch_embed(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Patch embedding with an optional fused epilogue."""
    epilogue = epilogue or Epilogue("int32")
    height, width, _ = context.types["image"].shape
    patch = int(context.attributes["patch"])
    gemm = _gemm_of(context, context.result.shape[0], patch * patch * 3, epilogue)
    pad = [int(p) for p in context.attributes["pad"]]
    function = build_patch_embed(gemm, "patch_embed", height, width, patch, pad)
    arguments: list[str | np.ndarray] = ["image", *_weight_arguments(context, gemm)]
    arguments += [name for name, _, _ in _extra_parameters(gemm)]
    return Lowering(function, arguments, context.result)


def lower_matmul(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Product of two activations with an optional fused requantize."""
    epilogue = epilogue or Epilogue("int32")
    rows, inner = context.types["a"].shape
    gemm = _gemm_of(context, rows, inner, epilogue)
    arguments: list[str | np.ndarray] = ["a", "b"]
    if epilogue.dtype != "int32":
        zeros = np.zeros(gemm.columns, dtype=np.int32)
        values = {
            "bias": zeros,
            "shift": context.constant("shift"),
            "multiplier": context.constant("multiplier"),
        }
        arguments += epilogue.pack(values, zeros.astype(np.int64), context.isa)
    return Lowering(build_matmul(gemm, "matmul"), arguments, context.result)
