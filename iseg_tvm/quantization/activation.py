"""Choosing lambda, the clipping of the activation's input grid (see ``relay_ops.shift_gelu``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.observers import LEVELS, Histogram
from iseg_tvm.quantization.options import QuantizeOptions

TABLES = {"gelu": gelu_table, "shiftgelu": shift_gelu_table}
_CANDIDATES = 64


LOWEST = -0.17
"""Both functions stay above it; the int8 range below would be wasted without a zero point."""


def output_grid(largest: float) -> tuple[float, int]:
    """Scale and zero point that spread ``[LOWEST, largest]`` over all 256 output values."""
    scale = (max(largest, -LOWEST) - LOWEST) / 255
    return scale, -128 - math.floor(LOWEST / scale + 0.5)


@dataclass(frozen=True)
class ActivationGrid:
    """How an activation function's int8 input lies on the real line, and its table.

    ``scale`` is one step, ``zero`` the integer that stands for 0, ``table`` int8 (256,).
    """

    scale: float
    zero: int
    table: Array


def choose_table(
    inputs: Histogram, options: QuantizeOptions, scale_out: float, zero_point: int, least: float
) -> ActivationGrid:
    """Input grid ``[-lambda, maximum]`` with the least squared error after the activation.

    Only negative inputs are clipped: their outputs vanish. Positive ones stay whole, because the
    squared error underrates the rare, huge activations that later layers rely on.

    Parameters
    ----------
    inputs : histogram of two groups, negative and positive inputs
    options : observer of the positive inputs; which function; symmetric grid (``[-lambda,
        lambda]``, lambda at least the maximum) or with a zero point; search, or nothing clipped
    scale_out, zero_point : see :func:`output_grid`
    least : smallest scale that the layer before can requantize to
    """
    positive = float(inputs.thresholds(options.observer, options.percentile)[1])
    negative = float(inputs.maximum[0])
    candidates = [
        _grid(positive, lowest, least, options.activation_zero_point)
        for lowest in np.linspace(min(-LOWEST, negative), negative, _CANDIDATES).tolist()
    ]
    if not options.lambda_search:
        candidates = candidates[-1:]
    build = TABLES[options.activation]
    grids = [
        ActivationGrid(scale, zero, build(scale, scale_out, zero_point, zero))
        for scale, zero in dict.fromkeys(candidates)
    ]
    values = np.concatenate([-inputs.centres(0), inputs.centres(1)])
    weights = inputs.counts.astype(np.float64).reshape(-1)
    used = weights > 0
    values, weights = values[used], weights[used]
    exact = values * 0.5 * (1 + _erf(values / math.sqrt(2)))
    errors = []
    for grid in grids:
        index = np.floor(values / grid.scale + 0.5).astype(np.int64) + grid.zero
        found = grid.table[np.clip(index, -128, 127) + 128].astype(np.float64)
        errors.append(float((((found - zero_point) * scale_out - exact) ** 2) @ weights))
    return grids[int(np.argmin(errors))]


def _grid(positive: float, negative: float, least: float, zero_point: bool) -> tuple[float, int]:
    """Scale and zero point of a grid over ``[-negative, positive]``."""
    if not zero_point:
        return max(positive, negative, least * LEVELS) / LEVELS, 0
    scale = max((positive + negative) / 255, least)
    return scale, -128 + math.floor(min(negative / scale, 128.0) + 0.5)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)
