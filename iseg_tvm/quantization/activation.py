"""Choosing lambda, the clipping of the activation's input grid (see ``relay_ops.shift_gelu``)."""

from __future__ import annotations

import math

import numpy as np

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.observers import LEVELS, Histogram

TABLES = {"gelu": gelu_table, "shiftgelu": shift_gelu_table}
_CANDIDATES = 64


def choose_table(
    inputs: Histogram, activation: str, scale_out: float, least_scale_in: float
) -> tuple[float, Array]:
    """Input scale ``lambda / 127`` and table with the least squared error after the activation.

    Parameters
    ----------
    inputs : histogram of two groups, negative and positive inputs
    activation : ``gelu`` or ``shiftgelu``
    scale_out : real value of one output step
    least_scale_in : smallest scale that the layer before can requantize to

    Returns
    -------
    (scale_in, table) : float and int8 (256,)
    """
    values = np.concatenate([-inputs.centres(0), inputs.centres(1)])
    weights = inputs.counts.astype(np.float64).reshape(-1)
    used = weights > 0
    values, weights = values[used], weights[used]
    exact = values * 0.5 * (1 + _erf(values / math.sqrt(2)))
    largest = float(inputs.maximum.max()) or 1.0
    shares = np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    scales = np.maximum(largest * shares / LEVELS, least_scale_in).tolist()
    tables = [TABLES[activation](scale, scale_out) for scale in scales]
    errors = []
    for scale, table in zip(scales, tables, strict=True):
        index = np.clip(np.floor(values / scale + 0.5), -128, 127).astype(np.int64) + 128
        errors.append(float(((table[index] * scale_out - exact) ** 2) @ weights))
    best = int(np.argmin(errors))
    return scales[best], tables[best]


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)
