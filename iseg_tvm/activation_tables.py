"""256-byte tables of activation functions on int8 grids (definitions: ``relay_ops/shift_gelu.py``).

Built when a model is quantized. ``shift_gelu_table`` is integer arithmetic throughout;
``gelu_table`` rounds the exact function.
"""

from __future__ import annotations

import math

import numpy as np

from iseg_tvm.fixed_point import RangeError

FRACTION = 16
ONE = 1 << FRACTION


def _exp_shift(t: int) -> int:
    """``exp2_shift``: about ``2**16 * exp(t / 2**16)`` for ``t <= 0`` (I-ViT's ShiftExp)."""
    t = t + (t >> 1) - (t >> 4)
    whole, fraction = -t >> FRACTION, -t & (ONE - 1)
    return (ONE - (fraction >> 1)) >> whole


def _round_divide(a: int, b: int) -> int:
    """``a / b`` rounded half up, ``b > 0``."""
    return (2 * a + b) // (2 * b)


def _fixed(scale: float) -> int:
    """A positive real scale as an integer with 32 fraction bits (at least 1)."""
    if not (math.isfinite(scale) and scale > 0):
        raise RangeError(f"activation table: scale {scale} is not a finite positive number")
    return max(1, math.floor(scale * 2.0**32 + 0.5))


def shift_gelu_table(
    scale_in: float, scale_out: float, zero_point: int = 0, zero_in: int = 0
) -> np.ndarray:
    """Table of lambda-ShiftGELU: int8 (256,), entry ``x + 128`` for input ``x``.

    Parameters
    ----------
    scale_in : real value of one input step, ``lambda / 127``
    scale_out : real value of one output step
    zero_point : output that stands for 0; the layer after folds it into its bias
    zero_in : input that stands for 0; the layer before adds it with its bias

    Raises
    ------
    RangeError
        If a scale is not finite and positive.
    """
    step, out = _fixed(scale_in), _fixed(scale_out)
    table = []
    for x in range(-128, 128):
        p = ((x - zero_in) * step) >> (32 - FRACTION)
        v = p + (p >> 1) + (p >> 3) + (p >> 4)
        top = max(v, 0)
        a, b = _exp_shift(v - top), _exp_shift(-top)
        sigmoid = (a << FRACTION) // (a + b)
        table.append(_round_divide(p * sigmoid, out) + zero_point)
    return np.clip(table, -128, 127).astype(np.int8)


def gelu_table(
    scale_in: float, scale_out: float, zero_point: int = 0, zero_in: int = 0
) -> np.ndarray:
    """Table of the exact GELU ``x * Phi(x)``; parameters as of :func:`shift_gelu_table`."""
    step, out = _fixed(scale_in) / 2**32, _fixed(scale_out) / 2**32
    inputs = [(x - zero_in) * step for x in range(-128, 128)]
    values = [
        zero_point + math.floor(0.5 * x * (1 + math.erf(x / math.sqrt(2))) / out + 0.5)
        for x in inputs
    ]
    return np.clip(values, -128, 127).astype(np.int8)
