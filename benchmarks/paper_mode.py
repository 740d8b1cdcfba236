"""Float emulation of the paper-faithful 8-bit mode, so that its loss stands beside the default's.

What I-ViT (arXiv 2207.01405) and, after it, I-Segmenter do: symmetric min-max scales, one a tensor,
for every activation; attention probabilities normalised and floored to 8 bits (``floor(128 p) /
128``) after the linear shift exponential; ShiftGELU of an int8 input; int8 weights, one scale a
channel; 16-bit residuals, here left in float. Only for measuring: no integer model has this form,
because with 1,000 tokens most probabilities are below 1/128 and vanish.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iseg_tvm.activation_tables import shift_gelu_table
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.calibration import Statistics, calibrate

LEVELS = 127


def paper_mode(model: Segmenter, images: Sequence[np.ndarray]) -> Segmenter:
    """Copy of a float model that rounds as the paper's 8-bit mode, calibrated on images.

    Parameters
    ----------
    model : Segmenter
    images : uint8 (H, W, 3) each
    """
    statistics = calibrate(model.eval(), images)
    emulated = copy.deepcopy(model)
    emulated.set_fused_attention(False)
    round_weights(emulated)
    encoder: Any = emulated.encoder
    decoder: Any = emulated.decoder
    _round_output(encoder.patch_embed, statistics, "encoder.patch_embed")
    for i, block in enumerate(encoder.blocks):
        _round_block(block, statistics, f"encoder.blocks.{i}")
    _round_output(encoder.norm, statistics, "encoder.norm")
    for i, block in enumerate(getattr(decoder, "blocks", ())):
        _round_block(block, statistics, f"decoder.blocks.{i}")
    if hasattr(decoder, "decoder_norm"):
        _round_output(decoder.decoder_norm, statistics, "decoder.norm")
    return emulated


def round_weights(model: Segmenter) -> None:
    """Round every matrix to int8, one scale an output channel, in place."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data = _round_weight(module.weight.data)


def _round_block(block: Any, statistics: Statistics, name: str) -> None:
    for module, site in (
        (block.norm1, "norm1"),
        (block.attn.qkv, "qkv"),
        (block.norm2, "norm2"),
    ):
        _round_output(module, statistics, f"{name}.{site}")
    block.attn.attn_drop.register_forward_hook(lambda _m, _a, p: shiftmax_8bit(p))
    scale = statistics.maximum(f"{name}.attention") / LEVELS
    block.attn.proj.register_forward_pre_hook(lambda _m, a: (_fake(a[0], scale),))
    scale_in = statistics.maximum(f"{name}.fc1") / LEVELS
    scale_out = statistics.maximum(f"{name}.activation") / LEVELS
    table = torch.from_numpy(shift_gelu_table(scale_in, scale_out).astype(np.float32)) * scale_out

    def activation(_m: nn.Module, inputs: tuple[Tensor], _y: Tensor) -> Tensor:
        return table[(inputs[0] / scale_in + 0.5).floor().clamp(-128, 127).long() + 128]

    block.mlp.act.register_forward_hook(activation)


def shiftmax_8bit(probabilities: Tensor) -> Tensor:
    """Probabilities of a softmax to what Shiftmax stores of them in 8 bits."""
    octaves = -torch.log2(probabilities / probabilities.amax(dim=-1, keepdim=True))
    whole = octaves.floor()
    weights = (1 - (octaves - whole) / 2) * torch.exp2(-whole)
    weights = torch.nan_to_num(weights)  # probabilities that underflowed to 0
    return (weights / weights.sum(dim=-1, keepdim=True) * 128).floor() / 128


def _round_output(module: nn.Module, statistics: Statistics, site: str) -> None:
    scale = statistics.maximum(site) / LEVELS
    module.register_forward_hook(lambda _m, _a, y: _fake(y, scale))


def _round_weight(weight: Tensor) -> Tensor:
    step = weight.abs().flatten(1).amax(dim=1) / LEVELS
    step = step.clamp(min=torch.finfo(weight.dtype).tiny).view(-1, *[1] * (weight.dim() - 1))
    return (weight / step + 0.5).floor() * step


def _fake(values: Tensor, scale: float) -> Tensor:
    """Round to an int8 grid and back."""
    return (values / scale + 0.5).floor().clamp(-128, 127) * scale
