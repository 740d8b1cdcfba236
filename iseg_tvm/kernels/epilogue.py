"""What happens to a GEMM tile while it is in registers: requantize, table, residual add.

An epilogue turns a group of int32 accumulator vectors into one result vector in memory order;
definitions are those of ``relay_ops`` (requantize, shift_gelu, residual_add). The bias is where the
accumulators start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import PanelLayout, pack_columns
from iseg_tvm.kernels.table import table_start
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, clamp, load

_GROUPS = {"int8": 4, "int16": 2, "int32": 1}
"""Accumulator vectors that fill one result vector."""


@dataclass(frozen=True)
class Epilogue:
    """Steps after the accumulation.

    Attributes
    ----------
    dtype : ``int32`` (bias only), ``int8`` or ``int16`` (requantized)
    post_shift : of requantize
    skip_shift : None, or the shift of a residual addition (``dtype`` int16)
    tables : tables of 256 bytes that the int8 result goes through, as in ``shift_gelu``; 0: none
    """

    dtype: str
    post_shift: int = 0
    skip_shift: int | None = None
    tables: int = 0

    def group(self, vectors: int) -> int:
        """Accumulator vectors of a panel ``vectors`` wide that are packed into one result."""
        return max(g for g in (1, 2, 4) if g <= _GROUPS[self.dtype] and vectors % g == 0)

    @property
    def constants(self) -> tuple[tuple[str, str], ...]:
        """(name, dtype) of the per-column constants that :func:`emit_epilogue` reads."""
        if self.dtype == "int32":
            return (("bias", "int32"),)
        return (("bias", "int32"), ("shift", "int32"), ("multiplier", "int16"))

    def pack(
        self, values: Mapping[str, np.ndarray], correction: np.ndarray, layout: PanelLayout
    ) -> list[np.ndarray]:
        """Per-column constants in the order of the lanes that meet them, as :attr:`constants`.

        Rounding of the first shift and the left operand's offset are folded into the bias.
        """
        bias = values["bias"].astype(np.int64) + correction
        if self.dtype != "int32":
            bias = bias + ((np.int64(1) << values["shift"].astype(np.int64)) >> 1)
        arrays: dict[str, np.ndarray] = {**values, "bias": bias}
        merged = {"multiplier": min(2, layout.group)}
        return [
            pack_columns(arrays[name], layout, dtype, merged.get(name, 1))
            for name, dtype in self.constants
        ]


def emit_epilogue(
    isa: Isa, epilogue: Epilogue, accumulators: Sequence[Expr], column: Expr,
    constants: Sequence[Buffer], skip: Expr | None = None, tables: Buffer | None = None,
) -> Expr:  # fmt: skip
    """Turn a group of accumulator vectors into one vector of ``epilogue.dtype``.

    Parameters
    ----------
    accumulators : int32xL each, bias and rounding constant included
    column : first lane of the group in the constants
    constants : buffers in the order of :attr:`Epilogue.constants`
    skip : int16 vector of the residual stream, if the epilogue adds one
    tables : flat, that the int8 result goes through, if the ISA looks up in registers; the group
        then starts at a multiple of its width, which divides the columns that share a table
    """
    if epilogue.dtype == "int32":
        return accumulators[0]
    lanes, group = isa.lanes, len(accumulators)
    shifted = [
        T.Bind(a >> load(constants[1], column + v * lanes, lanes))
        for v, a in enumerate(accumulators)
    ]
    wide = min(2, group) * lanes
    products = [
        _requantized(isa, epilogue.post_shift, narrow, load(constants[2], column + h * wide, wide))
        for h, narrow in enumerate(_to_int16(isa, shifted))
    ]
    if epilogue.dtype == "int16":
        return products[0] if skip is None else _residual(isa, epilogue, skip, products[0])
    result = T.Bind(_to_int8(isa, products))
    if tables is None:
        return result
    assert isa.table_lookup is not None
    start = table_start(column) if epilogue.tables > 1 else T.int32(0)
    return isa.table_lookup(tables, start, result, group * lanes)


def _to_int16(isa: Isa, vectors: Sequence[Expr]) -> list[Expr]:
    """Saturate int32 vectors to int16, two into one where there are two."""
    lanes = isa.lanes
    if len(vectors) == 1:
        return [T.Bind(cast(clamp(vectors[0], -32768, 32767, "int32", lanes), "int16", lanes))]
    pairs = zip(vectors[::2], vectors[1::2], strict=True)
    return [T.Bind(isa.narrow16(a, b, lanes)) for a, b in pairs]


def _to_int8(isa: Isa, vectors: Sequence[Expr]) -> Expr:
    """Saturate one or two int16 vectors to one of int8."""
    lanes = isa.lanes
    if len(vectors) == 2:
        return isa.narrow8(vectors[0], vectors[1], 2 * lanes)
    width = int(vectors[0].ty.dtype.lanes)
    return cast(clamp(vectors[0], -128, 127, "int16", width), "int8", width)


def _requantized(isa: Isa, post_shift: int, narrow: Expr, multiplier: Expr) -> Expr:
    """``rshr(mulh(narrow, multiplier), post_shift)`` on int16 lanes."""
    width = int(narrow.ty.dtype.lanes)
    product = T.Bind(isa.multiply_high(narrow, multiplier, width))
    return T.Bind(isa.round_shift(product, post_shift, width))


def _residual(isa: Isa, epilogue: Epilogue, skip: Expr, branch: Expr) -> Expr:
    """``sat16(rshr(skip, skip_shift) + branch)``: ``vpaddsw``, ``sqadd``."""
    assert epilogue.skip_shift is not None
    width = int(branch.ty.dtype.lanes)
    shifted = isa.round_shift(skip, epilogue.skip_shift, width)
    name = f"llvm.sadd.sat.v{width}i16"
    return T.call_llvm_pure_intrin(f"int16x{width}", name, shifted, branch)
