"""A stack of transformer blocks on one int16 residual stream, to integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm.quantization import layers
from iseg_tvm.quantization.activation import ActivationGrid, choose_grid, split_units
from iseg_tvm.quantization.context import Context
from iseg_tvm.quantization.layers import Array

SKIP_SHIFT_MAX = 14

NORM_HEADROOM, ATTENTION_HEADROOM = 1.1, 1.25
"""Range of a channel over what calibration saw of it: other pictures reach further."""

_ATTENTION_SHARE = 2 / 3
"""Of the equalization's exponent: the attention's channels differ most from picture to picture."""


@dataclass(frozen=True)
class BlockScales:
    """Real value of one step of a block's int8 tensors.

    Per channel: norm1, v, attention, norm2 (D,); per head: q, k, out_ratio (H,). ``out_ratio`` is
    ``v / attention``, which the operator wants constant in a head.
    """

    norm1: Array
    q: Array
    k: Array
    v: Array
    attention: Array
    out_ratio: Array
    norm2: Array
    activation: ActivationGrid


def convert_blocks(
    context: Context, plan: Mapping[str, BlockScales], eps: float, first_scale: float
) -> tuple[float, float]:
    """Convert a stack of blocks and choose its stream's scales.

    Parameters
    ----------
    context : Context
    plan : name -> scales of each block, in order
    eps : of their LayerNorms
    first_scale : least scale of the stream before the first block

    Returns
    -------
    (first, last) : scales of the stream before the first block and after the last
    """
    needs = [first_scale]
    for name, s in plan.items():
        needs.append(_addition_scale(context, name, "mid", "proj", "attn.proj", s.attention))
        needs.append(_addition_scale(context, name, "out", "fc2", "mlp.fc2", fc2_inputs(s)))
    stream, shifts = growing_scales(needs)
    for i, (name, s) in enumerate(plan.items()):
        before, mid, after = stream[2 * i : 2 * i + 3]
        context.scalars[f"{name}.skip_shift1"] = shifts[2 * i]
        context.scalars[f"{name}.skip_shift2"] = shifts[2 * i + 1]
        _attention(context, name, s, eps, before, mid)
        _mlp(context, name, s, eps, mid, after)
    return stream[0], stream[-1]


def plan_blocks(context: Context, prefix: str, depth: int) -> dict[str, BlockScales]:
    """Scales of the blocks ``prefix.0`` ... by name."""
    return {f"{prefix}.{i}": _block_scales(context, f"{prefix}.{i}") for i in range(depth)}


def fc2_inputs(s: BlockScales) -> Array:
    """Scale of each of the activation's outputs."""
    return s.activation.units(s.activation.scale_out)


def growing_scales(needs: Sequence[float]) -> tuple[list[float], list[int]]:
    """Scales at least ``needs``, each a power of two (0 to 14) times the one before.

    Returns
    -------
    (scales, shifts) : ``scales[i + 1] = scales[i] * 2**shifts[i]``
    """
    scales = [max(needs[0], max(needs) * 2.0**-SKIP_SHIFT_MAX)]
    shifts = []
    for need in needs[1:]:
        shift = 0
        while scales[-1] * 2.0**shift < need:
            shift += 1
        shifts.append(shift)
        scales.append(scales[-1] * 2.0**shift)
    return scales, shifts


def norm_scale(context: Context, name: str) -> Array:
    """int8 scale of each channel of a LayerNorm's output that its constants can express."""
    gamma, beta = context.layer_norm(name)
    least = layers.least_norm_scale(gamma, beta)
    return np.maximum(context.channel_scale(name, NORM_HEADROOM), least)


def _block_scales(context: Context, name: str) -> BlockScales:
    norm1 = norm_scale(context, f"{name}.norm1")
    q, k = _query_key_scales(context, name, norm1)
    v, attention, ratio = _value_scales(context, name, norm1)
    norm2 = norm_scale(context, f"{name}.norm2")
    inputs = context.statistics.sites[f"{name}.fc1"]
    weight, bias = context.layer(f"{name}.mlp.fc1")
    groups = len(inputs.limit) // 2
    parts = zip(split_units(weight, groups), split_units(bias, groups), strict=True)
    least = [layers.least_scale(w, b, norm2) for w, b in parts]
    activation = choose_grid(inputs, context.options, context.statistics.images, least)
    return BlockScales(norm1, q, k, v, attention, ratio, norm2, activation)


def _query_key_scales(context: Context, name: str, scale_in: Array) -> tuple[Array, Array]:
    """One scale a head of q, one of k."""
    weight, bias = context.layer(f"{name}.attn.qkv")
    scale = context.scale(f"{name}.qkv")
    heads, width = len(scale) // 3, len(bias) // len(scale)
    step = layers.accumulator_step(weight * scale_in, bias, np.zeros(len(bias)))
    least = step.reshape(len(scale), width).max(axis=1) / layers.BELOW_ONE
    q, k = np.maximum(scale, least)[: 2 * heads].reshape(2, heads)
    # Logits too large even for the fewest fraction bits: such a softmax is one-hot, so clip q, k.
    over = q * k / layers.largest_logit_scale(context.options.polynomial, width)
    shrink = np.sqrt(np.maximum(over, 1.0))
    return np.maximum(q / shrink, least[:heads]), np.maximum(k / shrink, least[heads : 2 * heads])


def _value_scales(context: Context, name: str, scale_in: Array) -> tuple[Array, Array, Array]:
    """Per channel scales of v and of the attention's output, and their ratio per head.

    Both take the shape of the output's scales: v's rounding errors average out over the tokens.
    """
    weight, bias = context.layer(f"{name}.attn.qkv")
    out = context.channel_scale(f"{name}.attention", ATTENTION_HEADROOM, _ATTENTION_SHARE)
    channels = len(out)
    heads = len(context.statistics.sites[f"{name}.attention"].limit)
    step = layers.accumulator_step(weight * scale_in, bias, np.zeros(len(bias)))[-channels:]
    histogram = context.statistics.sites[f"{name}.qkv"]
    kept = context.scale(f"{name}.qkv")[-heads:] / histogram.unclipped()[-heads:]
    value = histogram.channel_maximum[-channels:] * np.repeat(kept, channels // heads)
    needed = np.maximum(value, step / layers.BELOW_ONE).reshape(heads, -1)
    ratio = np.maximum((needed / out.reshape(heads, -1)).max(axis=1), layers.OUT_RATIO_MIN)
    too_small = np.maximum(ratio / layers.OUT_RATIO_MAX, 1.0)
    out = (out.reshape(heads, -1) * too_small[:, None]).reshape(-1)
    ratio = ratio / too_small
    return out * np.repeat(ratio, channels // heads), out, ratio


def _addition_scale(
    context: Context, name: str, sum_site: str, branch: str, layer: str, scale_in: Array | float
) -> float:
    """Least stream scale after an addition: for the sum, the branch, and the layer's multiplier."""
    weight, bias = context.layer(f"{name}.{layer}")
    return max(
        context.wide_scale(f"{name}.{sum_site}", f"{name}.{branch}"),
        layers.least_scale(weight, bias, scale_in),
    )


def _attention(
    context: Context, name: str, s: BlockScales, eps: float, before: float, mid: float
) -> None:
    gamma, beta = context.layer_norm(f"{name}.norm1")
    integer_eps = layers.norm_eps(len(gamma), eps, before)
    context.emit_norm(f"{name}.norm1", layers.fold_norm(gamma, beta, integer_eps, s.norm1))
    weight, bias = context.layer(f"{name}.attn.qkv")
    head_width = len(bias) // (3 * len(s.q))
    columns = np.concatenate([np.repeat(np.concatenate([s.q, s.k]), head_width), s.v])
    context.linear(f"{name}.qkv", (weight, bias), s.norm1, columns, "int8")
    attention = layers.quantize_attention(
        s.q * s.k, s.out_ratio, head_width, context.options.polynomial
    )
    for part in ("exp_multiplier", "exp_shift", "out_multiplier", "out_shift"):
        context.tensors[f"{name}.attention.{part}"] = getattr(attention, part)
    for part in ("fraction_bits", "post_shift"):
        context.scalars[f"{name}.attention.{part}"] = getattr(attention, part)
    layer = context.layer(f"{name}.attn.proj")
    context.linear(f"{name}.proj", layer, s.attention, mid, "int16")


def _mlp(context: Context, name: str, s: BlockScales, eps: float, mid: float, after: float) -> None:
    gamma, beta = context.layer_norm(f"{name}.norm2")
    integer_eps = layers.norm_eps(len(gamma), eps, mid)
    context.emit_norm(f"{name}.norm2", layers.fold_norm(gamma, beta, integer_eps, s.norm2))
    weight, bias = context.layer(f"{name}.mlp.fc1")
    grid = s.activation
    columns, zero = grid.units(grid.scale), grid.units(grid.zero)
    context.linear(f"{name}.fc1", (weight, bias), s.norm2, columns, "int8", zero_out=zero)
    context.tensors[f"{name}.activation.table"] = grid.tables
    context.activations[name] = grid
    layer = context.layer(f"{name}.mlp.fc2")
    zero = grid.units(grid.zero_out)
    context.linear(f"{name}.fc2", layer, fc2_inputs(s), after, "int16", zero_in=zero)
