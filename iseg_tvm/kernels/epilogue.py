"""What happens to a GEMM tile while it is in registers: bias, requantize, residual add, store.

An epilogue gets one int32 vector at a time and writes the result; definitions are those of
``relay_ops`` (requantize, residual_add).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.packing import pad_columns
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, clamp, load, rounding_shift_right


@dataclass(frozen=True)
class Epilogue:
    """Steps after the accumulation.

    Attributes
    ----------
    dtype : ``int32`` (bias only), ``int8`` or ``int16`` (requantized)
    post_shift : of requantize
    skip_shift : None, or the shift of a residual addition (``dtype`` int16)
    table : the int8 result goes through a 256-byte table
    """

    dtype: str
    post_shift: int = 0
    skip_shift: int | None = None
    table: bool = False

    @property
    def constants(self) -> tuple[tuple[str, str], ...]:
        """(name, dtype) of the per-column constants that :func:`emit` reads."""
        if self.dtype == "int32":
            return (("bias", "int32"),)
        return (("bias", "int32"), ("shift", "int32"), ("multiplier", "int16"))

    def pack(
        self, values: Mapping[str, np.ndarray], correction: np.ndarray, isa: Isa
    ) -> list[np.ndarray]:
        """Per-column constants, padded to vectors, in the order of :attr:`constants`.

        Rounding of the first shift and the left operand's offset are folded into the bias.
        """
        bias = values["bias"].astype(np.int64) + correction
        if self.dtype != "int32":
            bias = bias + ((np.int64(1) << values["shift"].astype(np.int64)) >> 1)
        arrays: dict[str, np.ndarray] = {**values, "bias": bias}
        return [pad_columns(arrays[name], isa, dtype) for name, dtype in self.constants]


def emit_requantize(isa: Isa, biased: Expr, shift: Expr, multiplier: Expr, post: int) -> Expr:
    """``sat8/16(rshr((sat16(biased >> shift) * multiplier + 2**14) >> 15, post))`` as int16xL.

    ``biased`` already holds the rounding constant of ``shift``; the result is not yet saturated to
    int8.
    """
    lanes = isa.lanes
    narrow = cast(clamp(biased >> shift, -32768, 32767, "int32", lanes), "int16", lanes)
    product = isa.multiply_high(T.Bind(narrow), multiplier, lanes)
    return rounding_shift_right(T.Bind(product), post, "int16", lanes)


def emit_epilogue(
    isa: Isa, epilogue: Epilogue, accumulator: Expr, column: Expr,
    constants: Sequence[Buffer], skip: Expr | None,
) -> Expr:  # fmt: skip
    """Turn one accumulator vector into a result vector of ``epilogue.dtype``.

    Parameters
    ----------
    accumulator : int32xL
    column : index of the vector's first column in the constants
    constants : buffers in the order of :attr:`Epilogue.constants`
    skip : int16xL of the residual stream, if the epilogue adds one
    """
    lanes = isa.lanes
    biased = accumulator + load(constants[0], column, lanes)
    if epilogue.dtype == "int32":
        return biased
    shift, multiplier = (load(c, column, lanes) for c in constants[1:])
    result = emit_requantize(isa, biased, shift, multiplier, epilogue.post_shift)
    if epilogue.dtype == "int8":
        return cast(clamp(T.Bind(result), -128, 127, "int16", lanes), "int8", lanes)
    if skip is None:
        return result
    assert epilogue.skip_shift is not None
    shifted = rounding_shift_right(skip, epilogue.skip_shift, "int16", lanes)
    total = cast(T.Bind(shifted), "int32", lanes) + cast(result, "int32", lanes)
    return cast(clamp(total, -32768, 32767, "int32", lanes), "int16", lanes)
