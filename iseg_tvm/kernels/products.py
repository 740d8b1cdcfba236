"""Products as operators: linear layers, patch embedding, products of two activations.

Each builder supplies the way its left rows are read to the GEMM generator (:mod:`gemm`) and, for
two activations, packs the right operand first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from iseg_tvm.kernels.epilogue import Epilogue
from iseg_tvm.kernels.gemm import Gemm, PackRow, default_tasks, emit_gemm
from iseg_tvm.kernels.packing import (
    emit_pack_left_row,
    emit_pack_right,
    emit_right_sums,
    left_value,
    offset_correction,
    pack_weight,
)
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    cast,
    flat,
    kernel,
    scratch,
    splat,
    store,
)
from relay_ops.operator import Lowering, LoweringContext, Space

Parameter = tuple[str, tuple[int, ...], str]
"""(name, shape, dtype) of a kernel's buffer."""


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
    columns = gemm.layout.padded_columns
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
    columns = layout.padded_columns
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
    tasks = context.schedule.get("tasks", default_tasks(isa, rows, inner))
    return Gemm(isa, rows, context.result.shape[1], inner, tasks, epilogue, dot)


def gemm_space(context: LoweringContext) -> Space:
    """What a tuner may choose: register block, and parallel tasks the rows are cut into."""
    isa = context.isa
    rows = context.result.shape[0]
    inner = context.types["b" if "b" in context.types else "weight"].shape[1]
    default = default_tasks(isa, rows, inner)
    tiles = -(-rows // isa.rows)
    others = [n for n in (1, 2, 4, 8, 12, 16, 20, 24, 32, 48) if n <= tiles and n != default]
    return {"block": isa.blocks(), "tasks": [default, *others]}


def _weight_arguments(context: LoweringContext, gemm: Gemm) -> list[np.ndarray]:
    """Packed weight and per-column constants."""
    weight = context.constant("weight")
    names = [name for name, _ in gemm.epilogue.constants]
    values = {name: context.constant(name) for name in names}
    correction = offset_correction(weight, gemm.isa)
    constants = gemm.epilogue.pack(values, correction, gemm.layout)
    return [pack_weight(weight, gemm.layout), *constants]


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
        arguments += epilogue.pack(values, zeros.astype(np.int64), gemm.layout)
    return Lowering(build_matmul(gemm, "matmul"), arguments, context.result)
