"""Real values of an integer model's steps, found again from its integers and the float parameters.

A quantized model holds no scale (see ``iseg_tvm.artifact``), but every one follows from it: a
weight's integers are the float weights divided by the accumulator's step, a multiplier is that step
over the result's, and so on from the image to the scores. So the reader of a model need not know
how its scales were chosen.

Sites are named as in ``iseg_tvm.quantization.calibration``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iseg_tvm import operator_limits as limits
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.quantization.activation import per_unit, split_units
from iseg_tvm.quantization.conversion import fold_patch_embedding
from iseg_tvm.quantization.layers import Array

Parameters = Mapping[str, Array]


@dataclass
class Grids:
    """Where a model's integers lie on the real line.

    Attributes
    ----------
    scale : site -> real value of one step, () or (channels,)
    zero : site -> integer that stands for 0, int64 (channels,) (only where it may differ from 0)
    inputs : linear layer -> scale of its input, () or (K,)
    zero_in : linear layer -> integer of its input that stands for 0, int64 (K,) (as `zero`)
    step : linear layer -> real value of one accumulator step, (N,)
    """

    scale: dict[str, Array] = field(default_factory=dict)
    zero: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Array] = field(default_factory=dict)
    zero_in: dict[str, Array] = field(default_factory=dict)
    step: dict[str, Array] = field(default_factory=dict)

    def zero_of(self, site: str) -> Tensor:
        """Integer that stands for 0, () or (channels,)."""
        return torch.from_numpy(np.asarray(self.zero.get(site, 0)))


def float_layer(parameters: Parameters, model: QuantizedModel, name: str) -> tuple[Array, Array]:
    """Float weight (N, K) and bias (N,) that an integer layer stands for."""
    if name == "encoder.patch_embed":
        encoder = model.config.encoder
        weight, bias = (parameters[f"{name}.proj.{part}"] for part in ("weight", "bias"))
        return fold_patch_embedding(weight, bias, encoder.mean, encoder.std)
    if name in ("decoder.proj_patch", "decoder.proj_classes"):
        weight = parameters[name].T
        return weight, np.zeros(len(weight))
    stack, _, layer = name.rpartition(".")
    inner = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    source = f"{stack}.{inner.get(layer, layer)}"
    return parameters[f"{source}.weight"], parameters[f"{source}.bias"]


def float_norm(parameters: Parameters, name: str) -> tuple[Array, Array]:
    """Float gamma and beta (D,) that an integer LayerNorm stands for."""
    source = "decoder.decoder_norm" if name == "decoder.norm" else name
    if name == "decoder.class_norm":
        width = len(parameters["decoder.proj_classes"])
        return np.ones(width), np.zeros(width)
    return parameters[f"{source}.weight"], parameters[f"{source}.bias"]


def result_type(model: QuantizedModel, name: str) -> str:
    """``int8`` or ``int16``: what the wiring requantizes a layer's result to."""
    narrow = ["qkv", "fc1", "proj_patch"]
    if not model.config.l2_norm:
        narrow.append("proj_classes")
    return "int8" if name.rpartition(".")[2] in narrow else "int16"


def recover_grids(model: QuantizedModel, parameters: Parameters) -> Grids:
    """Find the real value of every step.

    Parameters
    ----------
    model : QuantizedModel
    parameters : float64 arrays of the checkpoint it was made from, by name; of its equivalent form
        (``equivalence.equivalent``) if it was quantized in one

    Raises
    ------
    IsegError
        The model was made by a version that divided hidden units.
    """
    if any(model.provenance.get("activation_divisors", {}).values()):
        raise IsegError(
            "the model was quantized by an earlier version, in a form that only it can read back",
            "quantize the checkpoint again with this version",
        )
    return _Recovery(model, parameters).run()


class _Recovery:
    """One walk from the image to the scores."""

    def __init__(self, model: QuantizedModel, parameters: Parameters) -> None:
        self.model, self.parameters, self.grids = model, parameters, Grids()

    def run(self) -> Grids:
        scale, config = self.grids.scale, self.model.config
        prefix = config.encoder.num_prefix_tokens
        position = self.parameters["encoder.pos_embed"][0, prefix:]
        first = _ratio(position, self.model.tensors["encoder.pos_embed"])
        self._wide_layer("encoder.patch_embed", np.array(1.0), first)
        self._blocks("encoder.blocks", config.encoder.depth, first)
        scale["encoder.norm"] = self._norm_scale("encoder.norm")
        if config.decoder.name == "linear":
            self.grids.inputs["decoder.head"] = scale["encoder.norm"]
            scale["decoder.head"] = np.median(self._narrow_steps("decoder.head"))
        else:
            self._mask_decoder(scale["encoder.norm"])
        return self.grids

    def _mask_decoder(self, features: Array) -> None:
        scale, config = self.grids.scale, self.model.config
        embedding = self.parameters["decoder.cls_emb"][0]
        first = _ratio(embedding, self.model.tensors["decoder.cls_emb"])
        self._wide_layer("decoder.proj_dec", features, first)
        self._blocks("decoder.blocks", config.decoder.num_layers, first)
        scale["decoder.norm"] = self._norm_scale("decoder.norm")
        for name in ("decoder.proj_patch", "decoder.proj_classes"):
            self.grids.inputs[name] = scale["decoder.norm"]
            scale[name] = np.median(self._narrow_steps(name))
        right = scale["decoder.proj_classes"]
        if config.l2_norm:
            scale["decoder.class_norm"] = self._norm_scale("decoder.class_norm").mean()
            right = scale["decoder.class_norm"] / embedding.shape[1] ** 0.5
        product = scale["decoder.proj_patch"] * right
        scale["decoder.masks"] = product / np.median(real_multiplier(self.model, "decoder.masks"))
        scale["decoder.mask_norm"] = self._norm_scale("decoder.mask_norm").mean()

    def _blocks(self, stack: str, depth: int, stream: float) -> None:
        """All blocks of a stack, from the scale of the stream before them."""
        scale, scalars = self.grids.scale, self.model.scalars
        for name in (f"{stack}.{i}" for i in range(depth)):
            scale[f"{name}.in"] = np.array(stream)
            scale[f"{name}.norm1"] = self._norm_scale(f"{name}.norm1")
            self.grids.inputs[f"{name}.qkv"] = scale[f"{name}.norm1"]
            ratio = out_ratio(self.model, name)
            scale[f"{name}.qkv"] = self._per_head(f"{name}.qkv", len(ratio))
            value = np.split(scale[f"{name}.qkv"], 3)[2].reshape(len(ratio), -1)
            scale[f"{name}.attention"] = (value / ratio[:, None]).reshape(-1)
            stream *= 2.0 ** scalars[f"{name}.skip_shift1"]
            scale[f"{name}.mid"] = np.array(stream)
            self._wide_layer(f"{name}.proj", scale[f"{name}.attention"], stream)
            scale[f"{name}.norm2"] = self._norm_scale(f"{name}.norm2")
            self.grids.inputs[f"{name}.fc1"] = scale[f"{name}.norm2"]
            scale[f"{name}.fc1"] = self._per_group(name, self._narrow_steps(f"{name}.fc1"))
            stream *= 2.0 ** scalars[f"{name}.skip_shift2"]
            scale[f"{name}.out"] = np.array(stream)
            self._activation(name, stream)

    def _activation(self, name: str, stream: float) -> None:
        """The activation's scale, from the layer that reads it."""
        layer = f"{name}.fc2"
        step = real_multiplier(self.model, layer) * stream
        weight, _ = float_layer(self.parameters, self.model, layer)
        hidden = weight.shape[1]
        units = self.model.tensors[f"{layer}.weight"] * step[:, None]
        before, after = activation_zeros(self.model, name)
        parts = (split_units(values, len(before), axis=1) for values in (weight, units))
        ratios = [_ratio(real, integers) for real, integers in zip(*parts, strict=True)]
        found = per_unit(1 / np.array(ratios), hidden)
        self.grids.scale[f"{name}.activation"] = found
        self.grids.zero[f"{name}.fc1"] = per_unit(before, hidden)
        self.grids.zero[f"{name}.activation"] = per_unit(after, hidden)
        self.grids.zero_in[layer] = per_unit(after, hidden)
        self._wide_layer(layer, found, stream)

    def _wide_layer(self, name: str, scale_in: Array, scale_out: float) -> None:
        """A layer whose int16 result lies on a known grid."""
        self.grids.inputs[name] = scale_in
        self.grids.scale[name] = np.array(scale_out)
        multiplier = real_multiplier(self.model, name)
        exact = multiplier * scale_out
        self.grids.step[name] = np.where(multiplier > 0, exact, self._weight_steps(name))

    def _narrow_steps(self, name: str) -> Array:
        """Scale of each column of a layer's result; the layer's own steps are stored."""
        step = self.grids.step[name] = self._weight_steps(name)
        multiplier = real_multiplier(self.model, name)
        found = step / np.where(multiplier > 0, multiplier, 1.0)
        return np.where(multiplier > 0, found, np.median(found[multiplier > 0]))

    def _weight_steps(self, name: str) -> Array:
        """Real value of a weight's unit in each row, least squares; dead rows get the median."""
        weight, _ = float_layer(self.parameters, self.model, name)
        integers = self.model.tensors[f"{name}.weight"].astype(np.float64)
        energy = (integers**2).sum(axis=1)
        alive = energy > 0
        found = (weight * self.grids.inputs[name] * integers).sum(axis=1)
        found = np.where(alive, found / np.maximum(energy, 1), 0.0)
        positive = found > 0
        typical = float(np.median(found[positive])) if positive.any() else 1.0
        return np.where(positive, found, typical)

    def _per_head(self, name: str, heads: int) -> Array:
        """Scale of each column of q, k (common to a head) and v."""
        steps = self._narrow_steps(name).reshape(3, heads, -1)
        steps[:2] = np.median(steps[:2], axis=2, keepdims=True)
        return steps.reshape(-1)

    def _per_group(self, block: str, steps: Array) -> Array:
        """Scale of each activation input, common to a group of units."""
        parts = split_units(steps, len(self.model.tensors[f"{block}.activation.table"]))
        return per_unit(np.array([np.median(part) for part in parts]), len(steps))

    def _norm_scale(self, name: str) -> Array:
        """Output scale of each channel of a LayerNorm, from gamma and beta together."""
        gamma, beta = float_norm(self.parameters, name)
        unit = 2.0 ** limits.fraction_bits(len(gamma))
        shift = self.model.scalars.get(f"{name}.shift", 0)
        slope = self.model.tensors[f"{name}.gamma"] * unit
        offset = self.model.tensors[f"{name}.beta"].astype(np.float64)
        # The normalised value has variance 1, so slope and offset weigh by their squares.
        energy = slope**2 + offset**2
        dot = gamma * slope + beta * offset
        found = np.where(energy > 0, dot / np.maximum(energy, 1), 0.0) * 2.0**shift
        typical = float(np.median(found[found > 0])) if (found > 0).any() else 1.0
        return np.where(found > 0, found, typical)


def real_multiplier(model: QuantizedModel, name: str) -> Array:
    """Factor of each column of a requantization, float64 (N,)."""
    post_shift = model.scalars.get(f"{name}.post_shift", 0)
    multiplier = model.tensors[f"{name}.multiplier"].astype(np.float64)
    shift = model.tensors[f"{name}.shift"].astype(np.float64)
    return multiplier * 2.0 ** -(15 + shift + post_shift)


def activation_zeros(model: QuantizedModel, block: str) -> tuple[Array, Array]:
    """Integers of each group's input and output that stand for 0, int64 (G,) each.

    Only the provenance knows the input's.
    """
    tables = model.tensors[f"{block}.activation.table"]
    kept = model.provenance.get("activation_scales", {}).get(block, ())
    zero = kept[2] if len(kept) > 2 else 0
    before = np.broadcast_to(np.asarray(zero, dtype=np.int64), (len(tables),))
    return before, tables[np.arange(len(tables)), 128 + before].astype(np.int64)


def out_ratio(model: QuantizedModel, block: str) -> Array:
    """Scale of v over that of the attention's result, a head, float64 (H,)."""
    multiplier = model.tensors[f"{block}.attention.out_multiplier"].astype(np.float64)
    return multiplier * 2.0 ** -model.tensors[f"{block}.attention.out_shift"].astype(np.float64)


def exponent_scale(model: QuantizedModel, block: str) -> Array:
    """Binary exponent of one unit of a logit, a head, float64 (H,)."""
    multiplier = model.tensors[f"{block}.attention.exp_multiplier"].astype(np.float64)
    shift = model.tensors[f"{block}.attention.exp_shift"].astype(np.float64)
    return multiplier * 2.0 ** -(15 + shift + model.scalars[f"{block}.attention.fraction_bits"])


def _ratio(real: Array, integers: Array) -> float:
    """Least-squares step of integers that stand for real values; 1 if all are 0."""
    values = integers.astype(np.float64)
    energy = float((values**2).sum())
    found = float((real * values).sum()) / energy if energy else 0.0
    return found if found > 0 else 1.0
