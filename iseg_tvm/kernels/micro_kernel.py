"""The register-blocked inner kernel that every matrix product uses.

``rows x (vectors * lanes)`` int32 accumulators stay in registers over the whole inner dimension:
per group of ``k_group`` values one load per right vector, one 32-bit broadcast per row and
``rows * vectors`` dot products.
"""

from __future__ import annotations

from collections.abc import Sequence

from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.vector import Buffer, Expr, T, load, scratch, splat, store

Accumulators = list[Buffer]


def emit_micro_kernel(
    isa: Isa, dot: Dot, left: Buffer, left_start: Expr, left_stride: int, rows: int,
    right: Buffer, right_start: Expr, width: int, depth: int,
    initial: Sequence[Expr] | None = None,
) -> Accumulators:  # fmt: skip
    """Multiply ``rows`` packed left rows with one packed right panel.

    Parameters
    ----------
    dot : ``isa.dot``, or ``isa.weight_dot`` where the right operand allows it
    left : flat view of packed rows whose elements are words of ``k_group`` values
    left_start, left_stride : first word, and words between rows
    right, right_start : flat int8 view of packed panels, first byte of this one
    width : columns of the panel, a multiple of ``isa.lanes``
    depth : padded inner size
    initial : int32xL a vector of the panel that every row starts from; 0 if left out

    Returns
    -------
    One int32 buffer (width,) a row, below 1,024 bytes, which LLVM keeps in registers.
    """
    if isa.micro_kernel is not None:
        return isa.micro_kernel(
            isa, dot, left, left_start, left_stride, rows, right, right_start, width, depth, initial
        )
    vectors, lanes, group = width // isa.lanes, isa.lanes, isa.k_group
    bytes_per_vector = lanes * group
    accumulators = [scratch(width, "int32") for _ in range(rows)]
    for row in accumulators:
        for v in range(vectors):
            start = splat(0, "int32", lanes) if initial is None else initial[v]
            store(row, v * lanes, start, lanes)
    with T.serial(0, depth // group) as k:
        start = right_start + k * (width * group)
        columns = [
            T.Bind(right[T.ramp(start + v * bytes_per_vector, 1, bytes_per_vector)])
            for v in range(vectors)
        ]
        for r, row in enumerate(accumulators):
            word = T.Bind(left[left_start + r * left_stride + k])
            for v in range(vectors):
                total = dot(load(row, v * lanes, lanes), word, columns[v])
                store(row, v * lanes, total, lanes)
    return accumulators


def word_dtype(isa: Isa) -> str:
    """Type of ``k_group`` packed left values seen as one element."""
    if isa.micro_kernel is not None:
        return f"{isa.a_dtype}x{isa.k_group}"
    bits = {"int16": 16, "int8": 8, "uint8": 8}[isa.a_dtype] * isa.k_group
    return f"int{bits}"
