"""What every step of a conversion reads, and the tensors and scalars it writes."""

from __future__ import annotations

import numpy as np
from torch import nn

from iseg_tvm.quantization.calibration import Statistics
from iseg_tvm.quantization.layers import Array, IntegerLinear, IntegerNorm, check_finite
from iseg_tvm.quantization.observers import LEVELS, Means
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
    means : of real values and integers at the sites that linear layers read (bias correction)
    tensors, scalars : the artifact's, by name (see ``iseg_tvm.artifact``)
    activation_scales : block -> real value of one step of its activation's input and output

    Raises
    ------
    IsegError
        A parameter is NaN or infinite.
    """

    def __init__(self, model: nn.Module, statistics: Statistics, options: QuantizeOptions) -> None:
        self.parameters = finite_parameters(model)
        self.statistics, self.options = statistics, options
        self.means: dict[str, Means] = {}
        self.tensors: dict[str, np.ndarray] = {}
        self.scalars: dict[str, int] = {}
        self.activation_scales: dict[str, tuple[float, float]] = {}

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

    def channel_scale(self, site: str) -> Array:
        """int8 scale of each channel of a site, ``sqrt(site maximum * channel maximum) / 127``.

        Half way (in logarithms) from one scale a tensor to one a channel: the factors move into
        the next layer's weights (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, section 4, with
        migration strength 1/2), and channels that the calibration images use little keep room.
        """
        histogram = self.statistics.sites[site]
        peak = float(histogram.maximum.max())
        if peak == 0:
            return np.full(len(histogram.channel_maximum), 1 / LEVELS)
        options = self.options
        kept = histogram.thresholds(options.observer, options.percentile).max() / peak
        channels = np.maximum(histogram.channel_maximum, peak * _CHANNEL_FLOOR)
        return np.sqrt(peak * channels) * (kept / LEVELS)

    def wide_scale(self, *sites: str, constants: float = 0.0) -> float:
        """int16 scale that holds the maxima of ``sites`` and of ``constants``."""
        peak = max(self.statistics.maximum(*sites), constants)
        return (peak if peak > 0 else 1.0) / STREAM_PEAK

    def emit_linear(self, name: str, layer: IntegerLinear) -> None:
        """Store a linear layer."""
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
