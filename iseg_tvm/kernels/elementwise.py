"""Element-wise kernels and the argmax, for operators that were not fused into a product.

Parallel over rows; the inner loops are plain counted loops over int32 values that LLVM vectorises.
All int32 arithmetic stays inside the ranges that the operators' docstrings derive.
"""

from __future__ import annotations

from iseg_tvm import fixed_point as fp
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, clamp, kernel, scratch
from iseg_tvm.operator_limits import ACTIVATION_GROUP
from relay_ops.argmax_upsample import CLASSES_MAX
from relay_ops.operator import Lowering, LoweringContext
from relay_ops.patch_embed import grid_size
from relay_ops.requantize import OUTPUT_BITS


def _wide(value: Expr) -> Expr:
    return cast(value, "int32", 1)


def _rounding_shift(value: Expr, shift: Expr) -> Expr:
    """``rshr`` in int32 where ``|value| + 2**(shift-1) < 2**31``; ``(1 << 0) >> 1`` is 0."""
    one = T.int32(1)
    return (value + ((one << shift) >> one)) >> shift


def _saturated(value: Expr, bits: int) -> Expr:
    return clamp(value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, "int32", 1)


def lower_requantize(context: LoweringContext) -> Lowering:
    """``sat(rshr((sat16(rshr(acc, shift)) * multiplier + 2**14) >> 15, post_shift))``."""
    rows, columns = context.result.shape
    dtype, post_shift = context.result.dtype, int(context.attributes["post_shift"])
    parameters = [
        ("accumulator", (rows, columns), "int32"),
        ("multiplier", (columns,), "int16"),
        ("shift", (columns,), "int8"),
        ("result", (rows, columns), dtype),
    ]
    with (
        kernel(f"requantize_{dtype}", parameters) as (builder, (acc, multiplier, shift, result)),
        T.parallel(rows) as i,
        T.serial(columns) as j,
    ):
        t = _saturated(_rounding_shift(acc[i, j], _wide(shift[j])), 16)
        z = (t * _wide(multiplier[j]) + T.int32(1 << 14)) >> T.int32(15)
        y = _saturated(_rounding_shift(z, T.int32(post_shift)), OUTPUT_BITS[dtype])
        T.buffer_store(result, cast(y, dtype, 1), [i, j])
    return Lowering(builder.get(), ["accumulator", "multiplier", "shift"], context.result)


def lower_residual_add(context: LoweringContext) -> Lowering:
    """``sat16(rshr(skip, skip_shift) + branch)``."""
    shape = context.result.shape
    skip_shift = T.int32(int(context.attributes["skip_shift"]))
    parameters = [(name, shape, "int16") for name in ("skip", "branch", "result")]
    with (
        kernel("residual_add", parameters) as (builder, (skip, branch, result)),
        T.parallel(shape[0]) as i,
        T.serial(shape[1]) as j,
    ):
        total = _rounding_shift(_wide(skip[i, j]), skip_shift) + _wide(branch[i, j])
        T.buffer_store(result, cast(_saturated(total, 16), "int16", 1), [i, j])
    return Lowering(builder.get(), ["skip", "branch"], context.result)


def lower_table(context: LoweringContext) -> Lowering:
    """``table[c // 64 if G > 1 else 0, x + 128]``."""
    shape, tables = context.result.shape, context.types["table"].shape
    parameters = [("x", shape, "int8"), ("table", tables, "int8"), ("result", shape, "int8")]
    with (
        kernel("table", parameters) as (builder, (x, table, result)),
        T.parallel(shape[0]) as i,
        T.serial(shape[1]) as j,
    ):
        group = T.floordiv(j, ACTIVATION_GROUP) if tables[0] > 1 else T.int32(0)
        T.buffer_store(result, table[group, _wide(x[i, j]) + T.int32(128)], [i, j])
    return Lowering(builder.get(), ["x", "table"], context.result)


def lower_argmax_upsample(context: LoweringContext) -> Lowering:
    """Per row of patches: each patch's best class, one line of pixels, and its copies below."""
    scores_spec = context.types["scores"]
    classes = scores_spec.shape[1]
    height, width = context.result.shape
    patch = int(context.attributes["patch"])
    grid_rows, grid_columns = grid_size(height, width, patch)
    parameters = [
        ("scores", scores_spec.shape, scores_spec.dtype),
        ("class_map", context.result.shape, "uint8"),
    ]
    with (
        kernel("argmax_upsample", parameters) as (builder, (scores, class_map)),
        T.parallel(grid_rows) as row,
    ):
        top = row * patch
        with T.serial(grid_columns) as column:
            best = _argmax(scores, row * grid_columns + column, classes)
            left = column * patch
            with T.serial(T.min(patch, width - left)) as x:
                T.buffer_store(class_map, best, [top, left + x])
        with T.serial(T.min(patch, height - top) - 1) as y, T.serial(width) as x:
            T.buffer_store(class_map, class_map[top, x], [top + 1 + y, x])
    return Lowering(builder.get(), ["scores"], context.result)


def _argmax(scores: Buffer, row: Expr, classes: int) -> Expr:
    """Lowest index of the largest score of a row, uint8, as two reductions: maximum, minimum."""
    state = scratch(2, "int32")
    largest, index = T.int32(0), T.int32(1)
    T.buffer_store(state, T.int32(fp.INT32_MIN), [largest])
    with T.serial(classes) as c:
        T.buffer_store(state, T.max(state[largest], _wide(scores[row, c])), [largest])
    T.buffer_store(state, T.int32(CLASSES_MAX), [index])
    with T.serial(classes) as c:
        found = T.Select(_wide(scores[row, c]) == state[largest], c, T.int32(CLASSES_MAX))
        T.buffer_store(state, T.min(state[index], found), [index])
    return cast(state[index], "uint8", 1)
