"""I-LayerNorm, rows in parallel (definition: ``relay_ops/layer_norm.py``).

A chunk of as many rows as a register has int32 lanes goes through three steps: statistics of every
row, the reciprocal roots of all of them in one vector, and the normalised rows, which are still
in L1. The result goes to a sink: the output, or the packed left operand of the next product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iseg_tvm.fixed_point import check_range
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import packed_order, round_up
from iseg_tvm.kernels.tiles import load_vector, store_vector
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    Parameter,
    PrimFunc,
    T,
    cast,
    clamp,
    flat,
    kernel,
    load,
    reduce_add,
    reinterpret,
    scratch,
    spans,
    splat,
    spread,
    store,
)
from relay_ops.layer_norm import BETA_MAX, GAMMA_MAX, root_constant
from relay_ops.operator import Lowering, LoweringContext, Space

ROWS_PER_TASK = 32

Sink = Callable[[Expr, Expr, Expr, int, int], None]
"""(row of the matrix, first column, vector, its lanes, those that exist): takes a result."""


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

    @property
    def lanes(self) -> int:
        """int16 lanes of a register."""
        return 2 * self.isa.lanes

    @property
    def padded_width(self) -> int:
        """Width of gamma and beta, in whole registers."""
        return round_up(self.width, self.lanes)

    @property
    def parameters(self) -> list[Parameter]:
        """Constants of the kernel, as :func:`pack_constants` makes them."""
        return [
            ("gamma", (self.padded_width,), "int16"),
            ("beta", (self.padded_width,), "int32"),
            ("scalars", (2,), "int64"),
        ]


@dataclass(frozen=True)
class LayerNormRows:
    """Matrix and constants while a kernel is emitted: flat int16 matrix, then ``parameters``."""

    norm: LayerNorm
    x: Buffer
    gamma: Buffer
    beta: Buffer
    scalars: Buffer


@dataclass(frozen=True)
class Statistics:
    """A chunk's rows, a lane each: mean, its remainder, the energy scaled to 32 bits, shift."""

    mean: Buffer
    rest: Buffer
    energy: Buffer
    shift: Buffer
    mantissa: Buffer


def build_layer_norm(norm: LayerNorm, name: str) -> PrimFunc:
    """``(x, gamma, beta with the rounding constant of shift, (eps, shift), out)``."""
    parameters = [
        ("x", (norm.rows, norm.width), "int16"),
        *norm.parameters,
        ("out", (norm.rows, norm.width), norm.dtype),
    ]
    with kernel(name, parameters) as (builder, buffers):
        x = flat(buffers[0], "int16", norm.rows * norm.width)
        out = flat(buffers[4], norm.dtype, norm.rows * norm.width)

        def sink(row: Expr, column: Expr, value: Expr, lanes: int, valid: int) -> None:
            store_vector(out, row * norm.width + column, value, norm.dtype, lanes, valid)

        with T.parallel(0, -(-norm.rows // norm.task_rows)) as block:
            first = T.Bind(block * norm.task_rows)
            present = T.Bind(T.min(norm.rows - first, norm.task_rows))
            emit_layer_norm(LayerNormRows(norm, x, *buffers[1:4]), first, present, sink)
    return builder.get()


def emit_layer_norm(rows: LayerNormRows, first: Expr, present: Expr, sink: Sink) -> None:
    """Normalise ``present`` rows from ``first``."""
    isa = rows.norm.isa
    count = isa.lanes
    statistics = Statistics(
        *(scratch(count, d) for d in ("int16", "int32", "uint32", "int32", "int32"))
    )
    with T.serial(0, T.floordiv(present + count - 1, T.int32(count))) as chunk:
        start = T.Bind(first + chunk * count)
        here = T.Bind(T.min(present - chunk * count, count))
        # Lanes without a row: any energy in range keeps the root and the division defined.
        store(statistics.energy, 0, splat(1 << 30, "uint32", count), count)
        with T.serial(0, here) as i:
            _emit_statistics(rows, start + i, i, statistics)
        _emit_mantissas(rows.norm, statistics)
        with T.serial(0, here) as i:
            _emit_row(rows, start + i, i, statistics, sink)


def _emit_statistics(rows: LayerNormRows, row: Expr, lane: Expr, statistics: Statistics) -> None:
    """Steps 1 to 4 of one row."""
    norm = rows.norm
    isa, lanes, width = norm.isa, norm.lanes, norm.width
    start = T.Bind(row * width)
    mean, rest = T.int32(0), T.int32(0)
    if norm.center:
        ones = splat(1, "int16", lanes)
        sums = scratch(isa.lanes, "int32")
        store(sums, 0, splat(0, "int32", isa.lanes), isa.lanes)

        def add(j: Expr, valid: int) -> None:
            x = load_vector(rows.x, start + j, "int16", lanes, valid)
            total = load(sums, 0, isa.lanes) + isa.pair_dot(x, ones, lanes)
            store(sums, 0, total, isa.lanes)

        _each_vector(norm, add)
        total = T.Bind(reduce_add(load(sums, 0, isa.lanes), "int32", isa.lanes))
        mean = T.Bind(T.floordiv(2 * total + width, T.int32(2 * width)))
        rest = T.Bind(total - width * mean)
    store(statistics.mean, lane, cast(mean, "int16", 1), 1)
    store(statistics.rest, lane, rest, 1)
    half = isa.lanes // 2
    squares = scratch(half, "int64")
    store(squares, 0, splat(0, "int64", half), half)

    def add_squares(j: Expr, valid: int) -> None:
        c = _centred(rows, start + j, T.Bind(cast(mean, "int16", 1)), valid)
        # Below 2**31 each; added two by two they need the 64-bit lane.
        pairs = T.Bind(reinterpret(isa.pair_dot(c, c, lanes), "int64", half))
        both = (pairs & splat(2**32 - 1, "int64", half)) + (pairs >> splat(32, "int64", half))
        store(squares, 0, load(squares, 0, half) + both, half)

    _each_vector(norm, add_squares)
    excess = T.floordiv(rest * rest, T.int32(width))
    offset = rows.scalars[0] - cast(excess, "int64", 1)
    energy = T.Bind(reduce_add(load(squares, 0, half), "int64", half) + offset)
    bits = T.Bind(T.int32(64) - cast(T.clz(energy), "int32", 1))
    k = T.Bind((T.int32(32) - bits) >> 1)
    up, down = cast(T.max(2 * k, 0), "int64", 1), cast(T.max(-2 * k, 0), "int64", 1)
    store(statistics.energy, lane, cast((energy << up) >> down, "uint32", 1), 1)
    store(statistics.shift, lane, T.int32(15) - k, 1)


def _emit_mantissas(norm: LayerNorm, statistics: Statistics) -> None:
    """Step 5 for all rows of a chunk: ``isqrt`` digit by digit in every lane, then a division."""
    lanes = norm.isa.lanes
    rest, root = scratch(lanes, "uint32"), scratch(lanes, "uint32")
    store(rest, 0, load(statistics.energy, 0, lanes), lanes)
    store(root, 0, splat(0, "uint32", lanes), lanes)
    for bit in range(15, -1, -1):
        digit = splat(1 << bit, "uint32", lanes)
        old_rest, old_root = T.Bind(load(rest, 0, lanes)), T.Bind(load(root, 0, lanes))
        trial = T.Bind((old_root + old_root + digit) << splat(bit, "uint32", lanes))
        take = old_rest >= trial
        store(rest, 0, T.Select(take, old_rest - trial, old_rest), lanes)
        store(root, 0, T.Select(take, old_root + digit, old_root), lanes)
    numerator = T.int32(root_constant(norm.width) << 15)
    with T.serial(0, lanes) as lane:
        quotient = T.truncdiv(numerator, cast(root[lane], "int32", 1))
        store(statistics.mantissa, lane, quotient, 1)


def _emit_row(
    rows: LayerNormRows, row: Expr, lane: Expr, statistics: Statistics, sink: Sink
) -> None:
    """Steps 6 and 7 of one row."""
    norm = rows.norm
    isa, lanes = norm.isa, norm.lanes
    mean, mantissa, shift = (
        T.Bind(b[lane]) for b in (statistics.mean, statistics.mantissa, statistics.shift)
    )
    # The mean's fraction joins the rounding constant: it costs nothing per element.
    fraction = T.floordiv(statistics.rest[lane] * mantissa, T.int32(norm.width))
    half = T.Bind(((T.int32(1) << shift) >> 1) - fraction)
    factor = spread(T.Bind(cast(mantissa, "int16", 1)), lanes)
    final_shift = T.Bind(cast(rows.scalars[1], "int32", 1))
    start = T.Bind(row * norm.width)

    def normalise(j: Expr, valid: int) -> None:
        c = _centred(rows, start + j, mean, valid)
        shifted = [
            T.Bind((p + spread(half, isa.lanes)) >> spread(shift, isa.lanes))
            for p in isa.multiply_wide(c, factor, lanes)
        ]
        n = T.Bind(isa.narrow16(shifted[0], shifted[1], isa.lanes))
        products = isa.multiply_wide(n, load(rows.gamma, j, lanes), lanes)
        low, high = (
            T.Bind(p + load(rows.beta, j + h * isa.lanes, isa.lanes))
            for h, p in enumerate(products)
        )
        if norm.dtype == "int32":
            order = np.argsort(packed_order(isa, 2)).tolist()
            sink(row, j, T.Shuffle([low, high], [T.int32(i) for i in order]), lanes, valid)
            return
        ends = [T.Bind(u >> spread(final_shift, isa.lanes)) for u in (low, high)]
        y = T.Bind(isa.narrow16(ends[0], ends[1], isa.lanes))
        sink(row, j, cast(clamp(y, -128, 127, "int16", lanes), "int8", lanes), lanes, valid)

    _each_vector(norm, normalise)


def _centred(rows: LayerNormRows, position: Expr, mean: Expr, valid: int) -> Expr:
    """``clamp(x - mean, -32767, 32767)``, int16; lanes that do not exist are 0."""
    lanes = rows.norm.lanes
    x = load_vector(rows.x, position, "int16", lanes, valid)
    difference = T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.ssub.sat.v{lanes}i16", x, spread(mean, lanes)
    )
    c = T.max(difference, splat(-32767, "int16", lanes))
    if valid < lanes:
        exist = [T.int16(-1 if i < valid else 0) for i in range(lanes)]
        c = c & T.Shuffle(exist, [T.int32(i) for i in range(lanes)])
    return T.Bind(c)


def _each_vector(norm: LayerNorm, body: Callable[[Expr, int], None]) -> None:
    """``body(first column, lanes that exist)`` for every vector of a row."""
    full, tail = spans(norm.width, norm.lanes)
    if full:
        with T.serial(0, full) as j:
            body(j * norm.lanes, norm.lanes)
    if tail < norm.width:
        body(T.int32(tail), norm.width - tail)


def pack_constants(
    norm: LayerNorm, gamma: np.ndarray, beta: np.ndarray, eps: int, shift: int
) -> list[np.ndarray]:
    """Values of :attr:`LayerNorm.parameters`, checked."""
    check_range("gamma", gamma, -GAMMA_MAX, GAMMA_MAX)
    check_range("beta", beta, -BETA_MAX, BETA_MAX)
    final_shift = shift if norm.dtype == "int8" else 0
    padding = (0, norm.padded_width - norm.width)
    rounded = np.pad(beta + ((1 << final_shift) >> 1), padding).astype(np.int32)
    in_order = rounded.reshape(-1, norm.lanes)[:, packed_order(norm.isa, 2)].reshape(-1)
    return [np.pad(gamma, padding), in_order, np.array([eps, final_shift], dtype=np.int64)]


def layer_norm_space(context: LoweringContext) -> Space:
    """What a tuner may choose: rows of a task."""
    rows = context.result.shape[0]
    others = [n for n in (4, 8, 16, 64, 128, 256) if n < rows]
    return {"task_rows": [ROWS_PER_TASK, *others]}


def lower_layer_norm(context: LoweringContext) -> Lowering:
    """Lower ``iseg.layer_norm``."""
    rows, width = context.types["x"].shape
    attributes = context.attributes
    norm = LayerNorm(
        isa=context.isa,
        rows=rows,
        width=width,
        center=bool(attributes["center"]),
        dtype=str(attributes["dtype"]),
        task_rows=context.schedule.get("task_rows", ROWS_PER_TASK),
    )
    gamma, beta = context.constant("gamma"), context.constant("beta")
    scalars = int(attributes["eps"]), int(attributes["shift"])
    arguments: list[str | np.ndarray] = ["x", *pack_constants(norm, gamma, beta, *scalars)]
    return Lowering(build_layer_norm(norm, "layer_norm"), arguments, context.result)
