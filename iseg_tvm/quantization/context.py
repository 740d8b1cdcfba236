"""What every step of a conversion reads, and the tensors and scalars it writes."""

from __future__ import annotations

import numpy as np
from torch import nn

from iseg_tvm.quantization.activation import ActivationGrid
from iseg_tvm.quantization.calibration import Statistics
from iseg_tvm.quantization.layers import (
    Array,
    IntegerLinear,
    IntegerNorm,
    LinearRequest,
    check_finite,
    quantize_linear,
)
from iseg_tvm.quantization.observers import LEVELS, trusted
from iseg_tvm.quantization.options import QuantizeOptions

STREAM_PEAK = 12288
"""Calibrated maximum of an int16 tensor: a quarter below 2**14, where requantization saturates."""


_CHANNEL_FLOOR = 2.0**-8
"""Share of a tensor's maximum that every channel is granted, used or not."""


class Context:
    """Inputs and outputs of one conversion.

    Parameters
    ----------
    model : the float model; its parameters are copied as float64
    statistics : what calibration observed
    options : QuantizeOptions

    Attributes
    ----------
    requests : linear layer -> what it is made from
    tensors, scalars : the artifact's, by name (see ``iseg_tvm.artifact``)
    activations : block -> grids of its activation function

    Raises
    ------
    IsegError
        A parameter is NaN or infinite.
    """

    def __init__(self, model: nn.Module, statistics: Statistics, options: QuantizeOptions) -> None:
        self.parameters = finite_parameters(model)
        self.statistics, self.options = statistics, options
        self.requests: dict[str, LinearRequest] = {}
        self.tensors: dict[str, np.ndarray] = {}
        self.scalars: dict[str, int] = {}
        self.activations: dict[str, ActivationGrid] = {}

    def layer(self, name: str) -> tuple[Array, Array]:
        """Weight (N, K) and bias (N,) of a linear layer."""
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]

    def layer_norm(self, name: str) -> tuple[Array, Array]:
        """Gamma and beta (D,) of a LayerNorm."""
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]

    def scale(self, site: str) -> Array:
        """int8 scale of each group of a site, from the chosen observer."""
        histogram = self.statistics.sites[site]
        return histogram.thresholds(self.options.observer, self.options.percentile) / LEVELS

    def channel_scale(self, site: str, headroom: float, share: float = 1.0) -> Array:
        """int8 scale of each channel of a site, between one scale a tensor and one a channel.

        ``(site maximum)**(1 - t) * (channel maximum)**t / 127`` with t = ``share * equalization``,
        times ``headroom`` if t > 0. The factors move into the next layer's weights (SmoothQuant,
        Xiao et al. 2023, arXiv 2211.10438, section 4); t below 1 also leaves room to channels that
        the calibration images use little, so it nears 1 as they become more, and headroom too.
        """
        histogram = self.statistics.sites[site]
        peak = float(histogram.maximum.max())
        if peak == 0:
            return np.full(len(histogram.channel_maximum), 1 / LEVELS)
        options, exponent = self.options, self.options.equalization * share
        if exponent > 0:
            exponent = trusted(exponent, self.statistics.images)
        kept = histogram.thresholds(options.observer, options.percentile).max() / peak
        room = trusted(headroom, self.statistics.images) if exponent > 0 else 1.0
        channels = np.maximum(histogram.channel_maximum, peak * _CHANNEL_FLOOR)
        return peak * (channels / peak) ** exponent * (room * kept / LEVELS)

    def wide_scale(self, *sites: str, constants: float = 0.0) -> float:
        """int16 scale that holds the maxima of ``sites`` and of ``constants``."""
        peak = max(self.statistics.maximum(*sites), constants)
        return (peak if peak > 0 else 1.0) / STREAM_PEAK

    def linear(
        self,
        name: str,
        layer: tuple[Array, Array],
        scale_in: Array | float,
        scale_out: Array | float,
        dtype: str,
        *,
        zero_in: Array | int = 0,
        zero_out: Array | int = 0,
    ) -> None:
        """Convert and store a linear layer; see ``layers.LinearRequest``."""
        request = LinearRequest(*layer, scale_in, scale_out, dtype, zero_in, zero_out)
        self.requests[name] = request
        self._emit_linear(name, quantize_linear(request))

    def _emit_linear(self, name: str, layer: IntegerLinear) -> None:
        for part in ("weight", "bias"):
            self.tensors[f"{name}.{part}"] = getattr(layer, part)
        self.emit_requantize(name, layer.multiplier, layer.shift, layer.post_shift)

    def emit_requantize(
        self, name: str, multiplier: Array, shift: Array, post_shift: int | None
    ) -> None:
        """Store a requantization; ``post_shift`` is None for an int16 result."""
        self.tensors[f"{name}.multiplier"] = multiplier
        self.tensors[f"{name}.shift"] = shift
        if post_shift is not None:
            self.scalars[f"{name}.post_shift"] = post_shift

    def emit_norm(self, name: str, norm: IntegerNorm) -> None:
        """Store a LayerNorm."""
        self.tensors[f"{name}.gamma"], self.tensors[f"{name}.beta"] = norm.gamma, norm.beta
        self.scalars[f"{name}.eps"], self.scalars[f"{name}.shift"] = norm.eps, norm.shift


def finite_parameters(model: nn.Module) -> dict[str, Array]:
    """All parameters by name, as float64; raises IsegError at the first that is not finite."""
    return {
        name: check_finite(name, value.double().cpu().numpy())
        for name, value in model.state_dict().items()
    }
