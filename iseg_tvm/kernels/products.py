"""Products as operators: linear layers, patch embedding, products of two activations.

A left operand (:mod:`left_operands`) and an epilogue (:mod:`epilogue`) around the GEMM generator
(:mod:`gemm`). For two activations the right operand is packed first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iseg_tvm.kernels import left_operands
from iseg_tvm.kernels.epilogue import Epilogue
from iseg_tvm.kernels.gemm import Gemm, default_tasks, emit_gemm
from iseg_tvm.kernels.layer_norm import LayerNorm, pack_constants
from iseg_tvm.kernels.left_operands import LeftOperand
from iseg_tvm.kernels.packing import (
    emit_pack_right,
    emit_right_sums,
    offset_correction,
    pack_weight,
)
from iseg_tvm.kernels.table import TABLE_SIZE
from iseg_tvm.kernels.vector import Buffer, Parameter, PrimFunc, T, flat, kernel, scratch, store
from relay_ops.operator import Lowering, LoweringContext, Space


def build_linear(gemm: Gemm, name: str, left: LeftOperand) -> PrimFunc:
    """``(left..., packed weight, constants..., [table | skip], out)``."""
    columns = gemm.layout.padded_columns
    parameters = [
        *left.parameters,
        ("weight", (gemm.layout.size,), "int8"),
        *((n, (columns,), d) for n, d in gemm.epilogue.constants),
        *_extra_parameters(gemm),
        ("out", (gemm.rows, gemm.columns), gemm.epilogue.dtype),
    ]
    with kernel(name, parameters) as (builder, buffers):
        count = len(left.parameters)
        rows = left.rows(buffers[:count])
        constants, tables, skip, out = _unpack(gemm, buffers[count + 1 :])
        emit_gemm(gemm, rows, buffers[count], constants, skip, tables, out)
    return builder.get()


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
        rows = left_operands.matrix(gemm).rows(buffers[:1])
        b = flat(buffers[1], "int8", gemm.columns * gemm.inner)
        out = flat(buffers[-1], epilogue.dtype, gemm.rows * gemm.columns)
        packed, bias = scratch(layout.size, "int8"), scratch(layout.padded_columns, "int32")
        emit_pack_right(layout, packed, T.int32(0), b, T.int32(0), gemm.inner, 1)
        emit_right_sums(layout, bias, T.int32(0), b, T.int32(0), gemm.inner, 1, -isa.a_offset)
        if scales:
            with T.serial(0, columns) as n:
                store(bias, n, bias[n] + buffers[2][n], 1)

        constants = [bias, *buffers[3:-1]]
        emit_gemm(gemm, rows, packed, constants, None, None, out)
    return builder.get()


def _extra_parameters(gemm: Gemm) -> list[Parameter]:
    if gemm.epilogue.tables:
        return [("table", (gemm.epilogue.tables, TABLE_SIZE), "int8")]
    if gemm.epilogue.skip_shift is not None:
        return [("skip", (gemm.rows, gemm.columns), "int16")]
    return []


def _unpack(
    gemm: Gemm, buffers: Sequence[Buffer]
) -> tuple[Sequence[Buffer], Buffer | None, Buffer | None, Buffer]:
    """Split (constants..., [table | skip], out) and flatten."""
    count = len(gemm.epilogue.constants)
    size = gemm.rows * gemm.columns
    tables = None
    if gemm.epilogue.tables:
        tables = flat(buffers[count], "int8", gemm.epilogue.tables * TABLE_SIZE)
    has_skip = gemm.epilogue.skip_shift is not None
    skip = flat(buffers[count], "int16", size) if has_skip else None
    return buffers[:count], tables, skip, flat(buffers[-1], gemm.epilogue.dtype, size)


def _gemm_of(context: LoweringContext, rows: int, inner: int, epilogue: Epilogue) -> Gemm:
    isa = context.isa.for_depth(inner)
    isa = isa.with_block(context.schedule.get("block", isa.block))
    dot = isa.dot
    weight = context.constants.get("weight")
    if isa.weight_dot is not None and weight is not None and weight.min() > -128:
        dot = isa.weight_dot
    tasks = context.schedule.get("tasks", default_tasks(isa, rows, inner))
    return Gemm(isa, rows, context.result.shape[1], inner, tasks, epilogue, dot)


def gemm_space(context: LoweringContext) -> Space:
    """What a tuner may choose: register block, and parallel tasks the rows are cut into.

    Where there is work for four tasks, fewer would leave CPUs idle that the tuner's machine may
    not have.
    """
    rows = context.result.shape[0]
    inner = context.types["b" if "b" in context.types else "weight"].shape[1]
    isa = context.isa.for_depth(inner)
    default = default_tasks(isa, rows, inner)
    tiles = -(-rows // isa.rows)
    offered = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48)
    others = [n for n in offered if min(4, tiles // 4) <= n <= tiles and n != default]
    return {"block": isa.blocks(), "tasks": [default, *others]}


def _weight_arguments(context: LoweringContext, gemm: Gemm) -> list[np.ndarray]:
    """Packed weight and per-column constants."""
    weight = context.constant("weight")
    names = [name for name, _ in gemm.epilogue.constants]
    values = {name: context.constant(name) for name in names}
    correction = offset_correction(weight, gemm.isa)
    constants = gemm.epilogue.pack(values, correction, gemm.layout)
    return [pack_weight(weight, gemm.layout), *constants]


def _lower_with_weight(
    context: LoweringContext, gemm: Gemm, name: str, left: LeftOperand,
    left_arguments: Sequence[str | np.ndarray],
) -> Lowering:  # fmt: skip
    arguments = [*left_arguments, *_weight_arguments(context, gemm)]
    arguments += [parameter for parameter, _, _ in _extra_parameters(gemm)]
    return Lowering(build_linear(gemm, name, left), arguments, context.result)


def lower_linear(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Linear layer with an optional fused epilogue; tensors named as in ``relay_ops``."""
    rows, inner = context.types["x"].shape
    gemm = _gemm_of(context, rows, inner, epilogue or Epilogue("int32"))
    return _lower_with_weight(context, gemm, "linear", left_operands.matrix(gemm), ["x"])


def lower_norm_linear(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Linear layer on the LayerNorm of its rows, which is written straight into packed form."""
    rows, inner = context.types["x"].shape
    gemm = _gemm_of(context, rows, inner, epilogue or Epilogue("int32"))
    norm = LayerNorm(gemm.isa, rows, inner, True, "int8", rows)
    constants = pack_constants(
        norm, context.constant("gamma"), context.constant("beta"),
        int(context.attributes["eps"]), int(context.attributes["norm_shift"]),
    )  # fmt: skip
    left = left_operands.layer_norm(gemm, norm)
    return _lower_with_weight(context, gemm, "norm_linear", left, ["x", *constants])


def lower_patch_embed(context: LoweringContext, epilogue: Epilogue | None = None) -> Lowering:
    """Patch embedding with an optional fused epilogue."""
    patch = int(context.attributes["patch"])
    pad = [int(p) for p in context.attributes["pad"]]
    rows = context.result.shape[0]
    gemm = _gemm_of(context, rows, patch * patch * 3, epilogue or Epilogue("int32"))
    left = left_operands.patches(gemm, context.types["image"].shape, patch, pad)
    return _lower_with_weight(context, gemm, "patch_embed", left, ["image"])


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
