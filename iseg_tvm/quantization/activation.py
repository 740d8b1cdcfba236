"""Choosing lambda, the clipping of the activation's input grid (see ``relay_ops.shift_gelu``)."""

from __future__ import annotations

import math

import numpy as np

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.observers import LEVELS, Histogram

TABLES = {"gelu": gelu_table, "shiftgelu": shift_gelu_table}
_CANDIDATES = 64


LOWEST = -0.17
"""Both functions stay above it; the int8 range below would be wasted without a zero point."""


def output_grid(largest: float) -> tuple[float, int]:
    """Scale and zero point that spread ``[LOWEST, largest]`` over all 256 output values."""
    scale = (max(largest, -LOWEST) - LOWEST) / 255
    return scale, -128 - math.floor(LOWEST / scale + 0.5)


def choose_table(
    inputs: Histogram, activation: str, scale_out: float, zero_point: int, least: float
) -> tuple[float, Array]:
    """Input scale ``lambda / 127`` and table with the least squared error after the activation.

    Only negative inputs are clipped freely: their outputs vanish. Positive ones stay whole, because
    the squared error underrates the rare, huge activations that later layers rely on.

    Parameters
    ----------
    inputs : histogram of two groups, negative and positive inputs
    activation : ``gelu`` or ``shiftgelu``
    scale_out, zero_point : see :func:`output_grid`
    least : smallest scale to consider: what holds the positive inputs, and what the layer before
        can requantize to

    Returns
    -------
    (scale_in, table) : float and int8 (256,)
    """
    values = np.concatenate([-inputs.centres(0), inputs.centres(1)])
    weights = inputs.counts.astype(np.float64).reshape(-1)
    used = weights > 0
    values, weights = values[used], weights[used]
    exact = values * 0.5 * (1 + _erf(values / math.sqrt(2)))
    largest = max(float(inputs.maximum.max()) / LEVELS, least)
    scales = np.linspace(least, largest, _CANDIDATES).tolist()
    tables = [TABLES[activation](scale, scale_out, zero_point) for scale in scales]
    errors = []
    for scale, table in zip(scales, tables, strict=True):
        index = np.clip(np.floor(values / scale + 0.5), -128, 127).astype(np.int64) + 128
        found = (table[index].astype(np.float64) - zero_point) * scale_out
        errors.append(float(((found - exact) ** 2) @ weights))
    best = int(np.argmin(errors))
    return scales[best], tables[best]


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)
