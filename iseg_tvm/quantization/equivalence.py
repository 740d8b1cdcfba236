"""An equivalent float model whose tensors fit integer grids better: same function, other numbers.

Centers
    A symmetric int8 grid must reach the farther end of a channel's range; around the channel's mean
    it may be finer. The mean ``c`` is a constant that linear layers carry: what writes the channel
    leaves it out of its bias, what reads it adds ``W c`` to its own (channel-wise shifting:
    Outlier Suppression+, Wei et al. 2023, arXiv 2304.09145, section 3.1). For keys nothing is
    added: ``q c`` is the same for all keys of a query, and a softmax does not see it. Attention
    averages values, so the mean of its output is left out of v and added after. The middle of
    the range would make the grid finer still, but huge channels, one-sided on one photograph,
    change their sign on another.
Orders
    Hidden units are sorted by their largest input, so that units with like ranges share one of
    the activation function's tables (``relay_ops.shift_gelu``) and its grids.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.calibration import Progress, Statistics, observe_views
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.options import QuantizeOptions

_READERS = {"norm1": "attn.qkv", "norm2": "mlp.fc1", "attention": "attn.proj"}
_CENTERED = ("norm1", "norm2", "qkv", "attention", "encoder.norm")


@dataclass(frozen=True)
class Equivalence:
    """How an equivalent model differs from a checkpoint.

    Attributes
    ----------
    centers : site -> mean of each channel, float64; values' are those of ``B.attention``
    orders : block -> the checkpoint's hidden unit that each of its hidden units is, int64
    """

    centers: Mapping[str, Array] = field(default_factory=dict)
    orders: Mapping[str, Array] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Form in a model's provenance."""
        return {
            "centers": {site: center.tolist() for site, center in self.centers.items()},
            "hidden_order": {block: order.tolist() for block, order in self.orders.items()},
        }


def recorded(quantized: QuantizedModel) -> Equivalence:
    """What the provenance of a quantized model says; nothing for models of earlier versions."""
    centers, orders = (quantized.provenance.get(k, {}) for k in ("centers", "hidden_order"))
    return Equivalence(
        {site: np.array(center, dtype=np.float64) for site, center in centers.items()},
        {block: np.array(order, dtype=np.int64) for block, order in orders.items()},
    )


def real_features(quantized: QuantizedModel, integers: Array) -> Array:
    """Real values (tokens, D) of the encoder's final features."""
    center = recorded(quantized).centers.get("encoder.norm", np.zeros(1))
    return integers * np.asarray(quantized.provenance["feature_scale"]) + center


class _Channels(Statistics):
    """Mean of each channel of a site, or largest activation input of each hidden unit."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}
        self.largest: dict[str, Tensor] = {}

    def observe(self, site: str, values: Tensor, groups: int | Sequence[int] = 1) -> None:
        """See the base class; only what :func:`find_equivalence` asks for is kept."""
        rows = values.detach().reshape(-1, values.shape[-1])
        if site.endswith("fc1"):
            positive = rows[:, rows.shape[1] // 2 :].amax(dim=0)  # see `signed_parts`
            self.largest[site] = torch.maximum(self.largest.get(site, positive), positive)
        elif site.endswith(_CENTERED):
            self.sums[site] = self.sums.get(site, 0.0) + rows.double().sum(dim=0)
            self.rows[site] = self.rows.get(site, 0) + len(rows)


def find_equivalence(
    model: Segmenter,
    images: Sequence[np.ndarray],
    options: QuantizeOptions,
    progress: Progress | None = None,
) -> Equivalence:
    """Means and order of channels on calibration images.

    Parameters
    ----------
    model : Segmenter, in evaluation mode
    images : uint8 (H, W, 3) each
    options : which of the two are wanted
    progress : called after each image

    Returns
    -------
    Means have three significant digits, as they are stored.
    """
    if not (options.centering or options.activation_groups):
        return Equivalence()
    seen = _Channels()
    observe_views(model, images, seen, "observing channels", progress)
    centers = {
        site: np.array([float(f"{c:.3g}") for c in total / seen.rows[site]])
        for site, total in seen.sums.items()
    }
    orders = {
        site.removesuffix(".fc1"): torch.argsort(largest, stable=True).numpy()
        for site, largest in seen.largest.items()
    }
    return Equivalence(
        centers if options.centering else {}, orders if options.activation_groups else {}
    )


def equivalent(model: Segmenter, change: Equivalence) -> Segmenter:
    """Changed copy of a model, which computes the same (the model itself if nothing changes).

    The features of ``encoder.norm`` are less their centers, which the decoder's first layer adds.
    """
    if not (change.centers or change.orders):
        return model
    result = copy.deepcopy(model)
    with torch.no_grad():
        for site, center in change.centers.items():
            _center(result, site, torch.from_numpy(center))
        for block, order in change.orders.items():
            _reorder(result.get_submodule(f"{block}.mlp"), torch.from_numpy(order))
    return result


def _center(model: Segmenter, site: str, center: Tensor) -> None:
    block, _, kind = site.rpartition(".")
    if kind == "qkv":  # of q, k and v only k is free
        width = len(center) // 3
        _subtract(model, f"{block}.attn.qkv", center[width : 2 * width], width)
        return
    if kind == "attention":
        _subtract(model, f"{block}.attn.qkv", center, 2 * len(center))
    else:
        _subtract(model, site, center, 0)
    reader = f"{block}.{_READERS[kind]}" if kind in _READERS else _first_of_decoder(model)
    layer: Any = model.get_submodule(reader)
    layer.bias.copy_(layer.bias.double() + layer.weight.double() @ center)


def _subtract(model: Segmenter, name: str, center: Tensor, start: int) -> None:
    """Leave ``center`` out of a module's bias from channel ``start`` on."""
    module: Any = model.get_submodule(name)
    part = module.bias[start : start + len(center)]
    part.copy_(part.double() - center)


def _first_of_decoder(model: Segmenter) -> str:
    return "decoder.head" if model.config.decoder.name == "linear" else "decoder.proj_dec"


def _reorder(mlp: Any, order: Tensor) -> None:
    """Exchange hidden units."""
    mlp.fc1.weight.copy_(mlp.fc1.weight[order].clone())
    mlp.fc1.bias.copy_(mlp.fc1.bias[order].clone())
    mlp.fc2.weight.copy_(mlp.fc2.weight[:, order].clone())
