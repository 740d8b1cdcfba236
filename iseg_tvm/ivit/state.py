"""Import of encoders that were fine-tuned with I-ViT's public code (github.com/zkkli/I-ViT).

Its state dicts hold float weights beside buffers, by these names (``B`` is ``blocks.i``):

===============================  ==================================================================
``*.weight_integer``             int8 weights, with ``*.fc_scaling_factor`` (linear layers) or
                                 ``*.conv_scaling_factor`` (patch embedding), one a row: taken over
                                 as they are
``B.qact1``, ``B.qact3``         ``.act_scaling_factor`` of the LayerNorms' int8 results
``B.attn.qact1``                 of q, k and v
``B.attn.qact2``                 of the attention's result
``B.mlp.qact_gelu``              of the activation's input (lambda is 127 times it)
``B.mlp.qact1``                  of the activation's output
===============================  ==================================================================

The imported model follows this project's semantics (docs/integer_semantics.md): logits stay int32,
probabilities are not rounded to 16 bits, the residual stream's scales grow by powers of two. So the
scales that I-ViT has for those (``qact_attn1``, ``qact2`` to ``qact4`` at 16 bits) are not read;
the stream's come from calibration, like everything of the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iseg_tvm.activation_tables import shift_gelu_table
from iseg_tvm.errors import IsegError
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.models.weights import check_weights, read_weight_file
from iseg_tvm.quantization import layers
from iseg_tvm.quantization.activation import ActivationGrid
from iseg_tvm.quantization.conversion import Plan
from iseg_tvm.quantization.options import QuantizeOptions
from iseg_tvm.quantization.transformer import BlockScales

AS_IVIT = QuantizeOptions(
    activation="shiftgelu",
    polynomial="linear",
    feature_scales=False,
    activation_groups=False,
    centering=False,
)
"""Forms that I-ViT has: its integers and scales are only right for these."""

_WRAPPERS = ("model", "state_dict")
_ROW_SCALES = ("fc_scaling_factor", "conv_scaling_factor")
_HINT = "save model.state_dict() of I-ViT's code after training or evaluation"


@dataclass(frozen=True)
class IvitEncoder:
    """What an I-ViT state dict says about a ViT encoder.

    Attributes
    ----------
    weights : parameters by timm's names, weights of layers as their integers times their scales
    scales : name of a quantizer (``blocks.0.attn.qact1``) -> real value of one step
    """

    weights: Mapping[str, Tensor]
    scales: Mapping[str, float]

    def install(self, model: Segmenter) -> None:
        """Put the weights into a Segmenter's encoder."""
        model.encoder.load_state_dict(dict(self.weights))

    def adjust(self, plan: Plan) -> None:
        """Put the scales into a conversion's plan."""
        for name, block in plan.encoder.items():
            plan.encoder[name] = self._block(name.removeprefix("encoder."), block)

    def _block(self, name: str, block: BlockScales) -> BlockScales:
        heads, width = len(block.q), len(block.v)
        qkv, attention = self.scales[f"{name}.attn.qact1"], self.scales[f"{name}.attn.qact2"]
        ratio = float(np.clip(qkv / attention, layers.OUT_RATIO_MIN, layers.OUT_RATIO_MAX))
        scale_in, scale_out = (self.scales[f"{name}.mlp.{n}"] for n in ("qact_gelu", "qact1"))
        return replace(
            block,
            norm1=self._norm(f"{name}.norm1", self.scales[f"{name}.qact1"]),
            q=np.full(heads, qkv),
            k=np.full(heads, qkv),
            v=np.full(width, qkv),
            attention=np.full(width, qkv / ratio),
            out_ratio=np.full(heads, ratio),
            norm2=self._norm(f"{name}.norm2", self.scales[f"{name}.qact3"]),
            activation=ActivationGrid(
                block.activation.hidden,
                np.array([scale_in]),
                np.array([0]),
                shift_gelu_table(scale_in, scale_out)[None],
                np.array([scale_out]),
                np.array([0]),
            ),
        )

    def _norm(self, name: str, scale: float) -> np.ndarray:
        gamma, beta = (self.weights[f"{name}.{p}"].double().numpy() for p in ("weight", "bias"))
        return np.maximum(scale, layers.least_norm_scale(gamma, beta))


def read_ivit(path: Path, model: Segmenter) -> IvitEncoder:
    """Read a state dict of I-ViT's code.

    Parameters
    ----------
    path : Path
        A PyTorch file: a state dict, bare or under ``model`` or ``state_dict``; names may begin
        with ``module.`` or ``encoder.``.
    model : Segmenter
        Its encoder's architecture is what the file must fit.

    Raises
    ------
    IsegError
        The file is damaged, is no such state dict, does not fit, or was saved before its
        quantizers had seen data.
    """
    content = read_weight_file(path)
    if isinstance(content, Mapping):
        wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        content = content[wrapped[0]] if wrapped else content
    if not isinstance(content, Mapping):
        raise IsegError(f"{path} holds no dictionary of weights", _HINT)
    state = {
        str(k).removeprefix("module.").removeprefix("encoder."): v for k, v in content.items()
    }
    if not any(name.endswith(".weight_integer") for name in state):
        raise IsegError(f"{path} has no weight_integer: it is no checkpoint of I-ViT", _HINT)
    expected = {name: value.shape for name, value in model.encoder.state_dict().items()}
    given = ((n, v) for n, v in _weights(state, str(path)) if n in expected)
    weights = check_weights(given, expected, str(path))
    scales = {
        name: _scale(state, name, path)
        for i in range(model.config.encoder.depth)
        for name in (
            f"blocks.{i}.{part}"
            for part in (
                "qact1", "attn.qact1", "attn.qact2", "qact3", "mlp.qact_gelu", "mlp.qact1",
            )
        )
    }  # fmt: skip
    return IvitEncoder(weights, scales)


def _weights(state: Mapping[str, Tensor], source: str) -> Iterator[tuple[str, object]]:
    """Float parameters; a layer's weight is rebuilt from its integers."""
    for name, value in state.items():
        integers = state.get(f"{name}_integer")
        if not name.endswith(".weight") or integers is None:
            yield name, value
            continue
        layer = name.removesuffix("weight")
        scale = next((state[layer + s] for s in _ROW_SCALES if layer + s in state), None)
        if scale is None or not bool(torch.as_tensor(integers).any()):
            raise IsegError(f"{source}: {layer[:-1]} has integers but no scale, or none", _HINT)
        rows = torch.as_tensor(scale).float().view(-1, *[1] * (integers.dim() - 1))
        yield name, integers.float() * rows


def _scale(state: Mapping[str, Tensor], name: str, path: Path) -> float:
    """A quantizer's scale, positive."""
    value = state.get(f"{name}.act_scaling_factor")
    found = float(value.max()) if isinstance(value, Tensor) and value.numel() else 0.0
    if not 0 < found < float("inf"):
        raise IsegError(f"{path}: {name}.act_scaling_factor is missing or not positive", _HINT)
    return found
