"""The integer model as a trainable module: same wiring, same operators, straight-through gradients.

`iseg_tvm.integer_graph` runs here on a third backend. Values are computed by the integer operators
that deployment uses, so what training sees is the deployed model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.quantization.activation import TABLES
from iseg_tvm.quantization.grids import (
    Grids,
    Parameters,
    activation_zeros,
    exponent_scale,
    float_layer,
    float_norm,
    out_ratio,
    real_multiplier,
    recover_grids,
    result_type,
)
from iseg_tvm.training.backend import Backend
from iseg_tvm.training.block_sites import ActivationSite, AttentionSite
from iseg_tvm.training.sites import ConstantSite, LinearSite, NormSite, RequantizeSite, Site

_CONSTANTS = ("encoder.pos_embed", "encoder.tokens", "decoder.cls_emb")


class QatSegmenter(nn.Module):
    """Trainable form of an integer model.

    Parameters
    ----------
    model : QuantizedModel
        Where training begins: an untrained `export` gives back its tensors and scalars.
    parameters : float64 arrays by name
        Of the checkpoint that `model` was made from, in its equivalent form: they say where between
        two integers a weight lies.
    levels : int
        Largest magnitude of a weight inside the blocks, 127 for 8 bits.

    Raises
    ------
    IsegError
        The model does not say how its activation tables were built.
    """

    def __init__(self, model: QuantizedModel, parameters: Parameters, levels: int = 127) -> None:
        super().__init__()
        self.model = model
        self.grids = recover_grids(model, parameters)
        self.sites = nn.ModuleDict(
            {_key(n): s for n, s in _build_sites(model, parameters, self.grids, levels)}
        )
        self.refresh()

    def site(self, name: str) -> Any:
        """The site of that name in the artifact."""
        return self.sites[_key(name)]

    def refresh(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Recompute all integers from the parameters; call it after every optimizer step.

        Returns
        -------
        (tensors, scalars) : what differs from ``model`` after training
        """
        tensors: dict[str, np.ndarray] = {}
        scalars: dict[str, int] = {}
        for key, module in self.sites.items():
            name, site = key.replace("__", "."), cast(Site, module)
            if isinstance(site, LinearSite) and name.endswith(".fc1"):
                # Shared with the table, so that lambda moves both.
                found = site.refresh(self.site(f"{name[:-4]}.activation").log_change.exp())
            else:
                found = site.refresh()
            stem = name.removesuffix(".attention").removesuffix(".activation")
            for part, value in found.items():
                full = f"{stem}.{part}" if part else stem
                if isinstance(value, int):
                    scalars[full] = value
                else:
                    tensors[full] = value
        return tensors, scalars

    def export(self, provenance: Mapping[str, Any] | None = None) -> QuantizedModel:
        """The model to deploy; ``provenance`` is added to what the first model had."""
        tensors, scalars = self.refresh()
        activations = {
            key.replace("__", ".").removesuffix(".activation"): [
                site.scale().tolist(),
                site.scale_out.tolist(),
                site.zero_in.tolist(),
            ]
            for key, site in self.sites.items()
            if isinstance(site, ActivationSite)
        }
        kept = {**self.model.provenance, "activation_scales": activations, **(provenance or {})}
        return replace(
            self.model,
            tensors={name: tensors[name] for name in self.model.tensors},
            scalars={**self.model.scalars, **scalars},
            provenance=kept,
        )

    def forward(self, images: Tensor, place: tuple[int, int] = (0, 0)) -> Tensor:
        """Scores of the patches.

        Parameters
        ----------
        images : uint8 (B, H, W, 3)
            Whole images of the model's training size, or windows of them.
        place : (row, column) of the windows in patches
            They keep their place in the position embedding.

        Returns
        -------
        float64 (B, rows * columns, classes)
            Real values; divided by the grid of ``decoder.mask_norm`` (or ``decoder.head``) they
            are the deployed model's scores exactly.
        """
        model = self.model.with_input_size(images.shape[1], images.shape[2])
        graph = IntegerGraph(model, self._tensors(model, place), Backend())
        scores: Tensor = graph.decode(graph.encode(images))
        if model.config.decoder.name == "linear":
            return scores.double() * float(self.grids.scale["decoder.head"])
        return scores

    def _tensors(self, model: QuantizedModel, place: tuple[int, int]) -> dict[str, Any]:
        """What the wiring reads by name: a stream constant, or the site of a tensor."""
        found: dict[str, Any] = {}
        for name in self.model.tensors:
            stem = name.rpartition(".")[0]
            found[name] = self.site(name)() if name in _CONSTANTS else self.site(stem)
        rows, columns = model.config.grid_for(*model.input_size)
        positions = found["encoder.pos_embed"].unflatten(0, model.config.grid_size)
        window = positions[place[0] : place[0] + rows, place[1] : place[1] + columns]
        return {**found, "encoder.pos_embed": window.flatten(0, 1)}


def _key(name: str) -> str:
    """``nn.ModuleDict`` keys may not contain dots."""
    return name.replace(".", "__")


def _build_sites(
    model: QuantizedModel, parameters: Parameters, grids: Grids, levels: int
) -> Iterator[tuple[str, nn.Module]]:
    """All sites of a model by name."""
    tensors, scalars = model.tensors, model.scalars
    for name in grids.step:
        weight, _ = float_layer(parameters, model, name)
        scale_in = grids.inputs[name]
        if name == "encoder.patch_embed":
            # Of a normalised image, as in the checkpoint, or its learning rate would be 127 times
            # what it is elsewhere.
            encoder = model.config.encoder
            scale_in = np.tile(1 / (255 * np.asarray(encoder.std)), encoder.patch_size**2)
            weight = weight / scale_in
        yield (
            name,
            LinearSite(
                weight,
                (tensors[f"{name}.weight"], tensors[f"{name}.bias"]),
                scale_in=scale_in,
                zero_in=grids.zero_in.get(name, 0),
                zero_out=grids.zero.get(name, 0),
                step=grids.step[name],
                factor=real_multiplier(model, name),
                dtype=result_type(model, name),
                levels=levels if ".blocks." in name else 127,
            ),
        )
    for name in (n.removesuffix(".eps") for n in scalars if n.endswith(".eps")):
        yield (
            name,
            NormSite(
                *float_norm(parameters, name),
                (tensors[f"{name}.gamma"], tensors[f"{name}.beta"]),
                scale_out=grids.scale[name],
                shift=None if name == "decoder.mask_norm" else scalars[f"{name}.shift"],
                eps=scalars[f"{name}.eps"],
            ),
        )
    for name in (n.removesuffix(".activation.table") for n in tensors if n.endswith(".table")):
        ratio = out_ratio(model, name)
        width = tensors[f"{name}.qkv.weight"].shape[0] // (3 * len(ratio))
        attention = AttentionSite(exponent_scale(model, name), ratio, width, model.polynomial)
        yield f"{name}.attention", attention
        yield f"{name}.activation", _activation_site(model, name)
    if "decoder.masks.multiplier" in tensors:
        yield (
            "decoder.masks",
            RequantizeSite(real_multiplier(model, "decoder.masks"), "int16"),
        )
    for name in _CONSTANTS:
        if name in tensors:
            real, scale = _constant(model, parameters, grids, name)
            yield name, ConstantSite(real, tensors[name], scale)


def _activation_site(model: QuantizedModel, name: str) -> ActivationSite:
    """The tables of a block, from the scales that the model's provenance remembers."""
    table = model.tensors[f"{name}.activation.table"]
    scales = model.provenance.get("activation_scales", {}).get(name)
    kind = model.provenance.get("options", {}).get("activation")
    hint = "quantize the checkpoint again with this version"
    if scales is None or kind not in TABLES:
        raise IsegError(f"the model does not say how {name}.activation.table was built", hint)
    before, zero = activation_zeros(model, name)
    scale_in, scale_out = (np.atleast_1d(np.array(s, dtype=np.float64)) for s in scales[:2])
    hidden = len(model.tensors[f"{name}.fc1.bias"])
    site = ActivationSite(TABLES[kind], hidden, scale_in, scale_out, zero, before)
    if not np.array_equal(site.refresh()["activation.table"], table):
        raise IsegError(f"{name}.activation.table is not the one its provenance describes", hint)
    return site


def _constant(
    model: QuantizedModel, parameters: Parameters, grids: Grids, name: str
) -> tuple[np.ndarray, float]:
    """Real values of an int16 tensor that is stored on a stack's first grid."""
    stack, _, _ = name.partition(".")
    scale = float(grids.scale[f"{stack}.blocks.0.in"])
    if name == "decoder.cls_emb":
        return parameters[name][0], scale
    prefix = model.config.encoder.num_prefix_tokens
    position = parameters["encoder.pos_embed"][0]
    if name == "encoder.pos_embed":
        return position[prefix:], scale
    tokens = [parameters["encoder.cls_token"][0]]
    if model.config.encoder.distilled:
        tokens.append(parameters["encoder.dist_token"][0])
    return np.concatenate(tokens) + position[:prefix], scale
