"""Every tensor of the float and of the integer model, by the same names (calibration's sites)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.integer_model import TorchBackend
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.calibration import Statistics, observing
from iseg_tvm.quantization.grids import Grids
from iseg_tvm.reference_model import runtime_tensors

Tensors = dict[str, Tensor]


class _Recorder(Statistics):
    """Keeps the values themselves, as (rows, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.values: Tensors = {}

    def observe(self, site: str, values: Tensor, groups: int | Sequence[int] = 1) -> None:
        """Keep ``values`` of a site."""
        if site.endswith(".fc1"):  # calibration splits them by sign
            negative, positive = values.chunk(2, dim=-1)
            values = negative + positive
        self.values[site] = values.detach().reshape(-1, values.shape[-1])


def trace_float(model: Segmenter, image: np.ndarray) -> tuple[Tensors, np.ndarray]:
    """Run the float model.

    Parameters
    ----------
    model : Segmenter
    image : uint8 (H, W, 3)

    Returns
    -------
    (values, scores) : float32 (rows, channels) by site; scores of the patches (rows * columns,
        classes)
    """
    recorder = _Recorder()
    with observing(model, recorder), torch.no_grad():
        scores = model.forward_scores(model.normalize_uint8(image[None]))
    return recorder.values, scores[0].flatten(1).T.numpy()


class _TracingBackend(TorchBackend):
    """Records each operator's result under its site, and may put another one in its place."""

    def __init__(self, sites: Mapping[int, str], forced: Mapping[str, Tensor]) -> None:
        self.sites, self.forced, self.last = sites, forced, ""
        self.values: Tensors = {}

    def call(self, operator: str, *tensors: Tensor, **attributes: Any) -> Tensor:
        """Apply an operator; the site follows from the constants it is given."""
        result = super().call(operator, *tensors, **attributes)
        site = next((self.sites[id(t)] for t in tensors[1:] if id(t) in self.sites), "")
        if operator == "residual_add":
            site = _sum_site(self.last)
        elif operator == "requantize":
            self.last = site
        elif operator in ("linear", "patch_embed", "matmul", "argmax_upsample"):
            return result  # an accumulator, which no float tensor stands for
        if not site:
            return result
        self.values[site] = result
        return self.forced.get(site, result)


def _sum_site(branch: str) -> str:
    """Where a residual addition's result is observed, by the layer before it."""
    block, _, layer = branch.rpartition(".")
    return {"proj": f"{block}.mid", "fc2": f"{block}.out"}.get(layer, "")


def trace_integers(
    model: QuantizedModel, image: np.ndarray, forced: Mapping[str, Tensor]
) -> tuple[Tensors, np.ndarray]:
    """Run the integer model.

    Parameters
    ----------
    model : QuantizedModel
    image : uint8 (H, W, 3) of ``model.input_size``
    forced : site -> integers that replace what its operator gives (see :func:`on_grids`)

    Returns
    -------
    (values, class_map) : integers (rows, channels) by site as the operators gave them; uint8 (H, W)
    """
    tensors = {name: torch.from_numpy(t.copy()) for name, t in runtime_tensors(model).items()}
    endings = ("multiplier", "gamma", "exp_multiplier", "table")
    sites = {id(t): n.rpartition(".")[0] for n, t in tensors.items() if n.endswith(endings)}
    backend = _TracingBackend(sites, forced)
    class_map = IntegerGraph(model, tensors, backend).run(torch.from_numpy(image))
    return backend.values, class_map.numpy()


def on_grids(values: Mapping[str, Tensor], grids: Grids, found: Mapping[str, Tensor]) -> Tensors:
    """Round the float model's tensors onto the integer model's grids.

    Forced into the integer model, they let each operator start from what the float model has: its
    error is then its own, not what came before it.

    Parameters
    ----------
    values : the float model's
    grids : of the integer model
    found : the integer model's tensors, for their types
    """
    rounded = {}
    for site in values.keys() & grids.scale.keys() & found.keys():
        limits = torch.iinfo(found[site].dtype)
        scale = torch.from_numpy(np.asarray(grids.scale[site]))
        steps = (values[site] / scale + 0.5).floor() + grids.zero_of(site)
        rounded[site] = steps.clamp(limits.min, limits.max).to(found[site].dtype)
    return rounded
