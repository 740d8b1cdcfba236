"""Grids of the activation function's input and output: lambda and zero points, a group of units.

See ``relay_ops.shift_gelu`` for what the tables compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.operator_limits import ACTIVATION_GROUP
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.observers import LEVELS, Histogram, trusted
from iseg_tvm.quantization.options import QuantizeOptions

TABLES = {"gelu": gelu_table, "shiftgelu": shift_gelu_table}
_CANDIDATES = 24
"""Lambdas tried."""

LOWEST = -0.17
"""Both functions stay above it; the int8 range below would be wasted without a zero point."""

_HEADROOM, _SHARE = 1.25, 0.5
"""From one image a group's range is the geometric mean of its own and the widest group's, and some
more: which units are excited, and how far, differs from picture to picture."""

_LEAST_LAMBDA = 4.0
"""GELU(-4) is -0.0001. A unit that calibration seldom saw below 0 may be there in all of another
picture, so that clipping it earlier would shift every token."""


@dataclass(frozen=True)
class ActivationGrid:
    """How an activation function's int8 input and output lie on the real line, and its tables.

    Attributes
    ----------
    hidden : units
    scale, zero : (G,), real value of one input step, integer that stands for 0, of each group
    tables : int8 (G, 256)
    scale_out, zero_out : (G,), of the output
    """

    hidden: int
    scale: Array
    zero: Array
    tables: Array
    scale_out: Array
    zero_out: Array

    def units(self, values: Array) -> Array:
        """Value of each hidden unit (hidden,) from those of the groups."""
        return per_unit(values, self.hidden)


def group_sizes(hidden: int, groups: int | None = None) -> tuple[int, ...]:
    """Units of each group: ``ACTIVATION_GROUP``, the last one maybe fewer; or all in one."""
    if groups == 1:
        return (hidden,)
    sizes = [ACTIVATION_GROUP] * (hidden // ACTIVATION_GROUP)
    rest = hidden % ACTIVATION_GROUP
    return (*sizes, rest) if rest else tuple(sizes)


def per_unit(values: Array, hidden: int) -> Array:
    """Value of each hidden unit (hidden,) from those of the groups (G,)."""
    return np.repeat(values, group_sizes(hidden, len(values)))


def split_units(values: Array, groups: int, axis: int = 0) -> list[Array]:
    """Each group's part of an array whose ``axis`` counts hidden units."""
    ends = np.cumsum(group_sizes(values.shape[axis], groups))[:-1]
    return np.split(values, ends, axis=axis)


def output_grid(largest: float) -> tuple[float, int]:
    """Scale and zero point that spread ``[LOWEST, largest]`` over all 256 output values."""
    scale = (max(largest, -LOWEST) - LOWEST) / 255
    return scale, -128 - math.floor(LOWEST / scale + 0.5)


def choose_grid(
    inputs: Histogram, options: QuantizeOptions, images: int, least: Sequence[float]
) -> ActivationGrid:
    """Grids of every group of hidden units.

    Parameters
    ----------
    inputs : histogram of 2 G groups: negative inputs of each group of units, then positive ones
    options : observer of the positive inputs; which function; symmetric input grid or with a zero
        point; whether lambda is searched
    images : how many were calibrated on
    least : (G,), smallest input scale that the layer before can requantize to
    """
    groups = len(least)
    positive = inputs.thresholds(options.observer, options.percentile)[groups:]
    reach = np.stack([inputs.unclipped()[:groups], positive], axis=1)
    if groups > 1:
        share = trusted(_SHARE, images)
        reach = reach**share * reach.max(axis=0) ** (1 - share) * trusted(_HEADROOM, images)
    found = [_group_grid(inputs, g, options, reach[g], least[g]) for g in range(groups)]
    scale, zero, scale_out, zero_out, tables = zip(*found, strict=True)
    return ActivationGrid(
        len(inputs.channel_maximum) // 2,
        np.array(scale),
        np.array(zero),
        np.stack(tables),
        np.array(scale_out),
        np.array(zero_out),
    )


_GroupGrid = tuple[float, int, float, int, Array]
"""Scale, zero, scale_out, zero_out, table."""


def _group_grid(
    inputs: Histogram, group: int, options: QuantizeOptions, reach: Array, least: float
) -> _GroupGrid:
    """Input grid ``[-lambda, limit]`` with the least squared error after the activation.

    ``reach`` is the largest lambda and the limit. Only negative inputs are clipped: their outputs
    vanish. Positive ones stay whole, because the squared error underrates the rare, huge
    activations that later layers rely on.
    """
    positive = group + len(inputs.limit) // 2
    negative, limit = reach.tolist()
    scale_out, zero_out = output_grid(limit)
    candidates = [
        _input_grid(limit, lowest, least, options.activation_zero_point)
        for lowest in np.linspace(min(_LEAST_LAMBDA, negative), negative, _CANDIDATES).tolist()
    ]
    if not options.lambda_search:
        candidates = candidates[-1:]
    build = TABLES[options.activation]
    grids = [
        (s, z, scale_out, zero_out, build(s, scale_out, zero_out, z))
        for s, z in dict.fromkeys(candidates)
    ]
    values = np.concatenate([-inputs.centres(group), inputs.centres(positive)])
    weights = inputs.counts[[group, positive]].astype(np.float64).reshape(-1)
    used = (weights > 0) & (values <= limit)
    values, weights = values[used], weights[used]
    exact = _gelu(values)
    errors = []
    for scale, zero, _, _, table in grids:
        index = np.floor(values / scale + 0.5).astype(np.int64) + zero
        found = table[np.clip(index, -128, 127) + 128].astype(np.float64)
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
