"""I-LayerNorm, one row at a time, rows in parallel (definition: ``relay_ops/layer_norm.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.fixed_point import check_range
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    cast,
    clamp,
    flat,
    kernel,
    load,
    scratch,
    spans,
    splat,
    spread,
    store,
)
from relay_ops.layer_norm import BETA_MAX, GAMMA_MAX, root_constant
from relay_ops.operator import Lowering, LoweringContext, Space

ROWS_PER_TASK = 16


@dataclass(frozen=True)
class LayerNorm:
    """What a kernel is generated for; layers that differ in eps and shift only share it.

    Attributes
    ----------
    task_rows : rows that one parallel task handles
    """

    isa: Isa
    rows: int
    width: int
    center: bool
    dtype: str
    task_rows: int


def build_layer_norm(norm: LayerNorm, name: str) -> PrimFunc:
    """``(x, gamma int16, beta int32 with the rounding constant of shift, (eps, shift), out)``."""
    parameters = [
        ("x", (norm.rows, norm.width), "int16"),
        ("gamma", (norm.width,), "int16"),
        ("beta", (norm.width,), "int32"),
        ("scalars", (2,), "int64"),
        ("out", (norm.rows, norm.width), norm.dtype),
    ]
    with kernel(name, parameters) as (builder, buffers):
        x = flat(buffers[0], "int16", norm.rows * norm.width)
        out = flat(buffers[4], norm.dtype, norm.rows * norm.width)
        with T.parallel(0, -(-norm.rows // norm.task_rows)) as block:
            first = T.Bind(block * norm.task_rows)
            with T.serial(0, T.min(norm.rows - first, norm.task_rows)) as row:
                start = T.Bind((first + row) * norm.width)
                _emit_row(norm, x, buffers[1:4], out, start)
    return builder.get()


def _emit_row(
    norm: LayerNorm, x: Buffer, constants: Sequence[Buffer], out: Buffer, start: Expr
) -> None:
    gamma, beta, scalars = constants
    mean, rest = T.int32(0), T.int32(0)
    if norm.center:
        total = _emit_sum(norm, "int32", lambda j, n: cast(load(x, start + j, n), "int32", n))
        mean = T.Bind(T.floordiv(2 * total + norm.width, T.int32(2 * norm.width)))
        rest = T.Bind(total - norm.width * mean)

    def centred(j: Expr, lanes: int) -> Expr:
        difference = cast(load(x, start + j, lanes), "int32", lanes) - spread(mean, lanes)
        return T.Bind(clamp(difference, -32767, 32767, "int32", lanes))

    def square(j: Expr, lanes: int) -> Expr:
        c = centred(j, lanes)
        return cast(c * c, "int64", lanes)

    excess = T.floordiv(rest * rest, T.int32(norm.width))
    offset = scalars[0] - cast(excess, "int64", 1)
    energy = T.Bind(_emit_sum(norm, "int64", square) + offset)
    mantissa, shift = _emit_reciprocal_root(energy, root_constant(norm.width))
    # The mean's fraction joins the rounding constant: it costs nothing per element.
    fraction = T.floordiv(rest * mantissa, T.int32(norm.width))
    half = T.Bind(((T.int32(1) << shift) >> 1) - fraction)

    final_shift = T.Bind(cast(scalars[1], "int32", 1))

    def result(j: Expr, lanes: int) -> Expr:
        product = centred(j, lanes) * spread(mantissa, lanes) + spread(half, lanes)
        n = T.Bind(clamp(product >> spread(shift, lanes), -32768, 32767, "int32", lanes))
        u = n * cast(load(gamma, j, lanes), "int32", lanes) + load(beta, j, lanes)
        if norm.dtype == "int32":
            return u
        y = T.Bind(u >> spread(final_shift, lanes))
        return cast(clamp(y, -128, 127, "int32", lanes), "int8", lanes)

    lanes = norm.isa.lanes
    full, tail = spans(norm.width, lanes)
    with T.serial(0, full) as j:
        store(out, start + j * lanes, result(j * lanes, lanes), lanes)
    with T.serial(tail, norm.width) as j:
        store(out, start + j, result(j, 1), 1)


def _emit_sum(norm: LayerNorm, dtype: str, term: Callable[[Expr, int], Expr]) -> Expr:
    """Sum of ``term(position, lanes)`` over the row."""
    lanes = norm.isa.lanes
    full, tail = spans(norm.width, lanes)
    sums, total = scratch(lanes, dtype), scratch(1, dtype)
    store(sums, 0, splat(0, dtype, lanes), lanes)
    store(total, 0, splat(0, dtype, 1), 1)
    with T.serial(0, full) as j:
        store(sums, 0, load(sums, 0, lanes) + term(j * lanes, lanes), lanes)
    with T.serial(tail, norm.width) as j:
        store(total, 0, total[0] + term(j, 1), 1)
    for lane in range(lanes):
        store(total, 0, total[0] + sums[lane], 1)
    return T.Bind(total[0])


def _emit_reciprocal_root(energy: Expr, root: int) -> tuple[Expr, Expr]:
    """Steps 4 and 5: (A, 15 - k) as int32 scalars from the int64 energy."""
    bits = T.Bind(T.int32(64) - cast(T.clz(energy), "int32", 1))
    k = T.Bind((T.int32(32) - bits) >> 1)
    up, down = cast(T.max(2 * k, 0), "int64", 1), cast(T.max(-2 * k, 0), "int64", 1)
    root_of = _emit_isqrt((energy << up) >> down)
    mantissa = T.Bind(T.truncdiv(T.int32(root << 15), cast(root_of, "int32", 1)))
    return mantissa, T.Bind(T.int32(15) - k)


def _emit_isqrt(value: Expr) -> Expr:
    """``fixed_point.isqrt`` of an int64 scalar below 2**32, digit by digit.

    The state lives in a buffer: bound to variables, TVM's simplifier substitutes 16 nested selects
    into each other and does not come back.
    """
    state = scratch(2, "int64")
    rest, root = T.int32(0), T.int32(1)
    store(state, rest, value, 1)
    store(state, root, T.int64(0), 1)
    with T.serial(0, 16) as step:
        bit = T.Bind(cast(T.int32(15) - step, "int64", 1))
        digit = T.Bind(T.int64(1) << bit)
        trial = T.Bind((state[root] + state[root] + digit) << bit)
        # Selects, not a branch: which digits are set cannot be predicted.
        take = T.Bind(state[rest] >= trial)
        store(state, rest, state[rest] - T.Select(take, trial, T.int64(0)), 1)
        store(state, root, state[root] + T.Select(take, digit, T.int64(0)), 1)
    return T.Bind(state[root])


def layer_norm_space(context: LoweringContext) -> Space:
    """What a tuner may choose: rows of a task."""
    rows = context.result.shape[0]
    others = [n for n in (4, 8, 32, 64, 128, 256) if n < rows]
    return {"task_rows": [ROWS_PER_TASK, *others]}


def lower_layer_norm(context: LoweringContext) -> Lowering:
    """Lower ``iseg.layer_norm``."""
    rows, width = context.types["x"].shape
    attributes = context.attributes
    gamma, beta = context.constant("gamma"), context.constant("beta")
    check_range("gamma", gamma, -GAMMA_MAX, GAMMA_MAX)
    check_range("beta", beta, -BETA_MAX, BETA_MAX)
    norm = LayerNorm(
        isa=context.isa,
        rows=rows,
        width=width,
        center=bool(attributes["center"]),
        dtype=str(attributes["dtype"]),
        task_rows=context.schedule.get("task_rows", ROWS_PER_TASK),
    )
    shift = int(attributes["shift"]) if norm.dtype == "int8" else 0
    rounding = (1 << shift) >> 1
    scalars = np.array([int(attributes["eps"]), shift], dtype=np.int64)
    constants = [gamma, (beta + rounding).astype(np.int32), scalars]
    arguments: list[str | np.ndarray] = ["x", *constants]
    return Lowering(build_layer_norm(norm, "layer_norm"), arguments, context.result)
