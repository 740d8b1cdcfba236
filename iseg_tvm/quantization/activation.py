"""Grids of the activation function's input and output: lambda, zero points, huge hidden units.

See ``relay_ops.shift_gelu`` for what the table computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.observers import LEVELS, Histogram
from iseg_tvm.quantization.options import QuantizeOptions

TABLES = {"gelu": gelu_table, "shiftgelu": shift_gelu_table}
_CANDIDATES = 24
"""Lambdas tried."""

LOWEST = -0.17
"""Both functions stay above it; the int8 range below would be wasted without a zero point."""

_LIMIT_STEP, _LIMIT_STEPS = 2.0**-0.25, 17
"""Largest outputs tried: from the calibrated maximum down to a sixteenth of it."""

_HEADROOM = 1.25
"""Range of a divided unit over what calibration saw of it."""


@dataclass(frozen=True)
class ActivationGrid:
    """How an activation function's int8 input and output lie on the real line, and its table.

    Attributes
    ----------
    scale, zero : real value of one input step, integer that stands for 0
    table : int8 (256,)
    scale_out, zero_out : of the output
    divisor : float64 (hidden,), at least 1. A unit c computes ``d GELU(x / d)`` with
        ``d = divisor[c]``, at no cost: the layer before divides, the layer after multiplies. It is
        GELU(x) for large ``|x|``, so units with huge outputs need not coarsen the others' grid.
    """

    scale: float
    zero: int
    table: Array
    scale_out: float
    zero_out: int
    divisor: Array

    def output(self, inputs: Array) -> Array:
        """Real output for real inputs (rows, hidden)."""
        index = np.floor(inputs / (self.divisor * self.scale) + 0.5) + self.zero
        table = (self.table.astype(inputs.dtype) - self.zero_out) * self.scale_out
        found: Array = table[np.clip(index, -128, 127).astype(np.int64) + 128] * self.divisor
        return found


def output_grid(largest: float) -> tuple[float, int]:
    """Scale and zero point that spread ``[LOWEST, largest]`` over all 256 output values."""
    scale = (max(largest, -LOWEST) - LOWEST) / 255
    return scale, -128 - math.floor(LOWEST / scale + 0.5)


def choose_grid(
    inputs: Histogram, sample: Array, options: QuantizeOptions, weight_out: Array, least: float
) -> ActivationGrid:
    """Grids that leave the least squared error after the layer that reads the activation.

    Parameters
    ----------
    inputs : histogram of two groups, negative and positive inputs
    sample : float32 (rows, hidden), inputs
    options : observer of the positive inputs; which function; symmetric input grid or with a zero
        point; whether lambda is searched; whether units are divided
    weight_out : float64 (N, hidden), of the layer that reads the activation
    least : smallest input scale that the layer before can requantize to
    """
    largest = float(inputs.thresholds(options.observer, options.percentile)[1])
    hidden = sample.shape[1]
    peaks = np.minimum(inputs.channel_maximum[hidden:], largest)
    steps = _LIMIT_STEPS if options.unit_scales else 1
    energy = (weight_out**2).sum(axis=0)
    exact = _gelu(sample)
    best, least_error = None, math.inf
    for limit in largest * _LIMIT_STEP ** np.arange(steps):
        divisor = np.where(peaks > limit, _HEADROOM * peaks / limit, 1.0)
        grid = _with_lambda(inputs, options, float(limit), divisor, least)
        error = grid.output(sample) - exact
        # Bias correction takes care of the mean.
        spread = error.var(axis=0) if options.bias_correction else (error**2).mean(axis=0)
        if (found := float(spread @ energy)) < least_error:
            best, least_error = grid, found
    if best is None:
        raise AssertionError("no candidate has a finite error")
    return best


def _with_lambda(
    inputs: Histogram, options: QuantizeOptions, limit: float, divisor: Array, least: float
) -> ActivationGrid:
    """Input grid ``[-lambda, limit]`` with the least squared error after the activation.

    Only negative inputs are clipped: their outputs vanish. Positive ones stay whole, because the
    squared error underrates the rare, huge activations that later layers rely on.
    """
    scale_out, zero_out = output_grid(limit)
    negative = float(inputs.maximum[0])
    candidates = [
        _input_grid(limit, lowest, least, options.activation_zero_point)
        for lowest in np.linspace(min(-LOWEST, negative), negative, _CANDIDATES).tolist()
    ]
    if not options.lambda_search:
        candidates = candidates[-1:]
    build = TABLES[options.activation]
    grids = [
        ActivationGrid(s, z, build(s, scale_out, zero_out, z), scale_out, zero_out, divisor)
        for s, z in dict.fromkeys(candidates)
    ]
    values = np.concatenate([-inputs.centres(0), inputs.centres(1)])
    weights = inputs.counts.astype(np.float64).reshape(-1)
    used = (weights > 0) & (values <= limit)
    values, weights = values[used], weights[used]
    exact = _gelu(values)
    errors = []
    for grid in grids:
        index = np.floor(values / grid.scale + 0.5).astype(np.int64) + grid.zero
        found = grid.table[np.clip(index, -128, 127) + 128].astype(np.float64)
        errors.append(float((((found - zero_out) * scale_out - exact) ** 2) @ weights))
    return grids[int(np.argmin(errors))]


def _input_grid(
    positive: float, negative: float, least: float, zero_point: bool
) -> tuple[float, int]:
    """Scale and zero point of a grid over ``[-negative, positive]``."""
    if not zero_point:
        return max(positive, negative, least * LEVELS) / LEVELS, 0
    scale = max((positive + negative) / 255, least)
    return scale, -128 + math.floor(min(negative / scale, 128.0) + 0.5)


def _gelu(x: Array) -> Array:
    exact: Array = functional.gelu(torch.from_numpy(x)).numpy()
    return exact
