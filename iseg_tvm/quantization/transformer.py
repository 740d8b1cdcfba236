"""A stack of transformer blocks on one int16 residual stream, to integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iseg_tvm import operator_limits as limits
from iseg_tvm.quantization import layers
from iseg_tvm.quantization.activation import choose_table
from iseg_tvm.quantization.context import Context
from iseg_tvm.quantization.layers import Array

SKIP_SHIFT_MAX = 14


@dataclass(frozen=True)
class BlockScales:
    """Real value of one step of a block's int8 tensors; q, k, v, attention are per head (H,)."""

    norm1: float
    q: Array
    k: Array
    v: Array
    attention: Array
    norm2: float
    fc1: float
    activation: float
    table: Array


def convert_blocks(
    context: Context, prefix: str, depth: int, eps: float, first_scale: float
) -> tuple[float, float]:
    """Convert blocks ``prefix.0`` ... and choose their stream's scales.

    Parameters
    ----------
    context : Context
    prefix : ``encoder.blocks`` or ``decoder.blocks``
    depth : number of blocks
    eps : of their LayerNorms
    first_scale : least scale of the stream before the first block

    Returns
    -------
    (first, last) : scales of the stream before the first block and after the last
    """
    names = [f"{prefix}.{i}" for i in range(depth)]
    scales = [_block_scales(context, name) for name in names]
    needs = [first_scale]
    for name, s in zip(names, scales, strict=True):
        needs.append(_addition_scale(context, name, "mid", "proj", "attn.proj", s.attention))
        needs.append(_addition_scale(context, name, "out", "fc2", "mlp.fc2", s.activation))
    stream, shifts = growing_scales(needs)
    for i, (name, s) in enumerate(zip(names, scales, strict=True)):
        before, mid, after = stream[2 * i : 2 * i + 3]
        context.scalars[f"{name}.skip_shift1"] = shifts[2 * i]
        context.scalars[f"{name}.skip_shift2"] = shifts[2 * i + 1]
        _attention(context, name, s, eps, before, mid)
        _mlp(context, name, s, eps, mid, after)
    return stream[0], stream[-1]


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


def norm_scale(context: Context, site: str, name: str) -> float:
    """int8 scale of a LayerNorm's output that its integer constants can express."""
    gamma, beta = context.layer_norm(name)
    unit = 2.0 ** limits.fraction_bits(len(gamma))
    least = max(
        float(np.abs(gamma).max()) / (unit * limits.GAMMA_MAX),
        float(np.abs(beta).max()) / limits.BETA_MAX,
    )
    return max(float(context.scale(site)[0]), least)


def _block_scales(context: Context, name: str) -> BlockScales:
    norm1 = norm_scale(context, f"{name}.norm1", f"{name}.norm1")
    q, k, v = _qkv_scales(context, name, norm1)
    attention = np.clip(
        context.scale(f"{name}.attention"), v / layers.OUT_RATIO_MAX, v / layers.OUT_RATIO_MIN
    )
    norm2 = norm_scale(context, f"{name}.norm2", f"{name}.norm2")
    activation = float(context.scale(f"{name}.activation")[0])
    least = layers.least_scale(*context.layer(f"{name}.mlp.fc1"), norm2)
    histogram = context.statistics.sites[f"{name}.fc1"]
    fc1, table = choose_table(histogram, context.options.activation, activation, least)
    return BlockScales(norm1, q, k, v, attention, norm2, fc1, activation, table)


def _qkv_scales(context: Context, name: str, scale_in: float) -> tuple[Array, Array, Array]:
    weight, bias = context.layer(f"{name}.attn.qkv")
    scale = context.scale(f"{name}.qkv")
    width = len(bias) // len(scale)
    least = [
        layers.least_scale(w, b, scale_in)
        for w, b in zip(
            weight.reshape(len(scale), width, -1), bias.reshape(len(scale), width), strict=True
        )
    ]
    q, k, v = np.maximum(scale, least).reshape(3, -1)
    # Logits too large even for the fewest fraction bits: such a softmax is one-hot, so clip q, k.
    over = q * k / layers.largest_logit_scale(context.options.polynomial, width)
    shrink = np.sqrt(np.maximum(over, 1.0))
    return q / shrink, k / shrink, v


def _addition_scale(
    context: Context, name: str, sum_site: str, branch: str, layer: str, scale_in: Array | float
) -> float:
    """Least stream scale after an addition: for the sum, the branch, and the layer's multiplier."""
    weight, bias = context.layer(f"{name}.{layer}")
    columns = _per_channel(scale_in, weight.shape[1])
    return max(
        context.wide_scale(f"{name}.{sum_site}", f"{name}.{branch}"),
        layers.least_scale(weight, bias, columns),
    )


def _per_channel(scale: Array | float, channels: int) -> Array:
    groups = np.atleast_1d(scale)
    return np.repeat(groups, channels // len(groups))


def _attention(
    context: Context, name: str, s: BlockScales, eps: float, before: float, mid: float
) -> None:
    gamma, beta = context.layer_norm(f"{name}.norm1")
    integer_eps = layers.norm_eps(len(gamma), eps, before)
    context.emit_norm(f"{name}.norm1", layers.fold_norm(gamma, beta, integer_eps, s.norm1))
    weight, bias = context.layer(f"{name}.attn.qkv")
    columns = _per_channel(np.concatenate([s.q, s.k, s.v]), len(bias))
    context.emit_linear(
        f"{name}.qkv", layers.quantize_linear(weight, bias, s.norm1, columns, "int8")
    )
    head_width = len(bias) // (3 * len(s.q))
    attention = layers.quantize_attention(
        s.q * s.k, s.v / s.attention, head_width, context.options.polynomial
    )
    for part in ("exp_multiplier", "exp_shift", "out_multiplier", "out_shift"):
        context.tensors[f"{name}.attention.{part}"] = getattr(attention, part)
    for part in ("fraction_bits", "post_shift"):
        context.scalars[f"{name}.attention.{part}"] = getattr(attention, part)
    weight, bias = context.layer(f"{name}.attn.proj")
    scale_in = _per_channel(s.attention, weight.shape[1])
    context.emit_linear(
        f"{name}.proj", layers.quantize_linear(weight, bias, scale_in, mid, "int16")
    )


def _mlp(context: Context, name: str, s: BlockScales, eps: float, mid: float, after: float) -> None:
    gamma, beta = context.layer_norm(f"{name}.norm2")
    integer_eps = layers.norm_eps(len(gamma), eps, mid)
    context.emit_norm(f"{name}.norm2", layers.fold_norm(gamma, beta, integer_eps, s.norm2))
    weight, bias = context.layer(f"{name}.mlp.fc1")
    context.emit_linear(f"{name}.fc1", layers.quantize_linear(weight, bias, s.norm2, s.fc1, "int8"))
    context.tensors[f"{name}.activation.table"] = s.table
    weight, bias = context.layer(f"{name}.mlp.fc2")
    context.emit_linear(
        f"{name}.fc2", layers.quantize_linear(weight, bias, s.activation, after, "int16")
    )
