"""Fewer bits for the weights inside the blocks: where training at a low precision begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iseg_tvm import operator_limits as limits
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.quantization.grids import (
    Parameters,
    float_layer,
    real_multiplier,
    recover_grids,
    result_type,
)
from iseg_tvm.quantization.layers import BELOW_ONE, dyadic_columns


def narrow_weights(model: QuantizedModel, parameters: Parameters, levels: int) -> QuantizedModel:
    """Round the weights of all blocks to ``[-levels, levels]``, the largest of a row to ``levels``.

    Scales of activations, biases (in real units) and all layers outside the blocks stay: this is
    min-max post-training quantization at fewer bits. The integers stay int8 tensors.

    Parameters
    ----------
    model : QuantizedModel
    parameters : float64 arrays of the checkpoint it was made from, in its equivalent form
    levels : 127 gives back `model`
    """
    if levels >= 127:
        return model
    grids = recover_grids(model, parameters)
    tensors, scalars = dict(model.tensors), dict(model.scalars)
    for name in (n for n in grids.step if ".blocks." in n):
        weight, _ = float_layer(parameters, model, name)
        old, zero = tensors[f"{name}.weight"].astype(np.int64), grids.zero_in.get(name, 0)
        real_bias = (tensors[f"{name}.bias"] + (zero * old).sum(axis=1)) * grids.step[name]
        scale_out = grids.step[name] / np.maximum(real_multiplier(model, name), 2.0**-40)
        folded = weight * grids.inputs[name]
        step = np.maximum(np.abs(folded).max(axis=1) / levels, grids.step[name])
        step = np.minimum(step, scale_out * BELOW_ONE)
        new = np.clip(np.floor(folded / step[:, None] + 0.5), -levels, levels).astype(np.int64)
        bias = np.floor(real_bias / step + 0.5) - (zero * new).sum(axis=1)
        multiplier, shift, post_shift = dyadic_columns(step / scale_out, result_type(model, name))
        tensors[f"{name}.weight"] = new.astype(np.int8)
        tensors[f"{name}.bias"] = bias.clip(-limits.BIAS_MAX, limits.BIAS_MAX).astype(np.int32)
        tensors[f"{name}.multiplier"], tensors[f"{name}.shift"] = multiplier, shift
        scalars[f"{name}.post_shift"] = post_shift
    return replace(model, tensors=tensors, scalars=scalars)
