"""Second half of quantization: weights and biases, layer by layer, on what integers came before.

The float and the integer model walk side by side over the calibration images. When the integer
model comes to a linear layer, its input carries every error made so far; the weights are rounded
for this input, and the bias is set so that the output is on average the *float* model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.integer_model import TorchBackend
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.operator_limits import BETA_MAX
from iseg_tvm.quantization.calibration import Progress, all_views, fused_attention
from iseg_tvm.quantization.layers import Array, LinearRequest, round_linear
from iseg_tvm.quantization.observers import Moments
from iseg_tvm.quantization.options import QuantizeOptions
from iseg_tvm.reference_model import runtime_tensors
from relay_ops.patch_embed import pixel_rows

Views = list[Tensor]
"""One tensor a view of a calibration image."""

VIEWS_MAX = 32
"""All views are in memory at once; of more, evenly spaced ones are taken."""

_BLOCK_LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_LAST_NORMS = {"encoder.norm": "encoder.norm", "decoder.norm": "decoder.decoder_norm"}


def refine(
    quantized: QuantizedModel,
    requests: Mapping[str, LinearRequest],
    norm_scales: Mapping[str, Array],
    model: Segmenter,
    images: Sequence[np.ndarray],
    options: QuantizeOptions,
    progress: Progress | None = None,
) -> QuantizedModel:
    """A quantized model with better weights and biases.

    Parameters
    ----------
    quantized : weights rounded to nearest, biases not corrected
    requests : linear layer -> what it is made from
    norm_scales : last LayerNorm of a stack -> scale of each channel of its output
    model : the float model, in evaluation mode
    images : uint8 (H, W, 3) each
    options : of rounding and bias correction
    progress : called after each layer
    """
    shown = [np.array(view, order="C") for made in all_views(images) for view in made]
    if len(shown) > VIEWS_MAX:
        shown = [shown[int(i)] for i in np.linspace(0, len(shown) - 1, VIEWS_MAX)]
    with torch.no_grad(), fused_attention(model):
        walk = _Walk(quantized, requests, norm_scales, model, options, progress)
        walk.decode(walk.encode([torch.from_numpy(view) for view in shown]))
    return replace(quantized, tensors={**quantized.tensors, **walk.replaced})


class _ViewsBackend(TorchBackend):
    """The integer operators on several images; constants are shared."""

    def call(self, operator: str, *tensors: Any, **attributes: Any) -> Any:
        """Apply an operator to each view."""
        return [super(_ViewsBackend, self).call(operator, *v, **attributes) for v in _each(tensors)]

    def concatenate(self, first: Any, second: Any) -> Any:
        """Stack rows of each view."""
        return [torch.cat(pair) for pair in _each((first, second))]

    def rows(self, x: Any, start: int, stop: int) -> Any:
        """Rows of each view."""
        return [view[start:stop] for view in x]


def _each(operands: Sequence[Tensor | Views]) -> Iterator[tuple[Tensor, ...]]:
    """Operands of each view; what is no list is the same for all."""
    count = max(len(t) for t in operands if isinstance(t, list))
    return zip(*(t if isinstance(t, list) else [t] * count for t in operands), strict=True)


class _Walk(IntegerGraph):
    """The integer graph on all views; layers are replaced just before they are run.

    ``stream`` is the float model's residual stream, (1, tokens, D) a view, and ``targets`` what
    it gives for the linear layers that come next, (tokens, N) a view.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        requests: Mapping[str, LinearRequest],
        norm_scales: Mapping[str, Array],
        model: Segmenter,
        options: QuantizeOptions,
        progress: Progress | None,
    ) -> None:
        tensors = {n: torch.from_numpy(t.copy()) for n, t in runtime_tensors(quantized).items()}
        super().__init__(quantized, tensors, _ViewsBackend())
        self.constants = tensors
        self.requests, self.norm_scales = requests, norm_scales
        self.float, self.options, self.progress = model, options, progress
        self.stream: Views = []
        self.targets: dict[str, Views] = {}
        self.replaced: dict[str, np.ndarray] = {}

    def encode(self, image: Any) -> Any:
        """See the base class; ``image`` is one a view."""
        encoder: Any = self.float.encoder
        real = [self.float.pad(self.float.normalize_uint8(view[None])) for view in image]
        self.targets["encoder.patch_embed"] = [encoder.patch_embed(x).flatten(0, -2) for x in real]
        self.stream = [encoder.embed(x) for x in real]
        patch = self.model.config.encoder.patch_size
        pixels = [pixel_rows(view, patch, self.model.pad) for view in image]
        self._refine("encoder.patch_embed", pixels)
        return super().encode(image)

    def decode(self, features: Any) -> Any:
        """See the base class."""
        decoder: Any = self.float.decoder
        prefix = self.model.config.encoder.num_prefix_tokens
        patches = [tokens[:, prefix:] for tokens in self.stream]
        if self.model.config.decoder.name == "linear":
            self.targets["decoder.head"] = [decoder.head(x)[0] for x in patches]
        else:
            projected = [decoder.proj_dec(x) for x in patches]
            self.targets["decoder.proj_dec"] = [x[0] for x in projected]
            self.stream = [torch.cat([x, decoder.cls_emb], dim=1) for x in projected]
        return super().decode(features)

    def _block(self, name: str, stream: Any) -> Any:
        block = self.float.get_submodule(name)
        with self._recording(name):
            self.stream = [block(tokens) for tokens in self.stream]
        return super()._block(name, stream)

    @contextmanager
    def _recording(self, block: str) -> Iterator[None]:
        """The float outputs of a block's layers become targets."""
        handles = []
        for layer, module in _BLOCK_LAYERS.items():
            kept = self.targets[f"{block}.{layer}"] = []
            handles.append(
                self.float.get_submodule(f"{block}.{module}").register_forward_hook(
                    lambda _m, _a, y, kept=kept: kept.append(y[0])
                )
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _layer_norm(self, name: str, x: Any, dtype: str = "int8", center: bool = True) -> Any:
        if name in _LAST_NORMS:
            norm = self.float.get_submodule(_LAST_NORMS[name])
            self.stream = [norm(tokens) for tokens in self.stream]
            if self.options.bias_correction:
                self._refine_norm(name, super()._layer_norm(name, x))
        if name == "decoder.norm":
            decoder: Any = self.float.decoder
            n = decoder.num_classes
            tokens = [x[0] for x in self.stream]
            self.targets["decoder.proj_patch"] = [t[:-n] @ decoder.proj_patch for t in tokens]
            self.targets["decoder.proj_classes"] = [t[-n:] @ decoder.proj_classes for t in tokens]
        return super()._layer_norm(name, x, dtype, center)

    def _linear(self, name: str, x: Any, dtype: str) -> Any:
        self._refine(name, x)
        return super()._linear(name, x, dtype)

    def _refine(self, name: str, x: Views) -> None:
        """Round a layer for the inputs ``x``, int8 (or pixels less 128), (rows, K) a view."""
        request, moments = self.requests[name], Moments(self.options.rounding == "feedback")
        zero = torch.from_numpy(np.asarray(request.zero_in, dtype=np.int32))
        for view, target in zip(x, self.targets.pop(name), strict=True):
            moments.update(view.to(torch.int32) - zero, target)
        weight, bias = round_linear(request, moments, self.options.bias_correction)
        self._store(f"{name}.weight", weight)
        self._store(f"{name}.bias", bias)
        if self.progress is not None:
            done = sum(weights.endswith(".weight") for weights in self.replaced)
            self.progress("rounding layers", done, len(self.requests))

    def _refine_norm(self, name: str, found: Views) -> None:
        """Let a last LayerNorm's beta take up the mean error of its output ``found``."""
        scale = torch.from_numpy(self.norm_scales[name])
        errors = [
            (real[0].double() / scale - y).mean(dim=0)
            for real, y in zip(self.stream, found, strict=True)
        ]
        unit = 2.0 ** self.model.scalars[f"{name}.shift"]
        mean = torch.stack(errors).mean(dim=0).numpy()
        beta = self.model.tensors[f"{name}.beta"] + np.floor(mean * unit + 0.5)
        self._store(f"{name}.beta", np.clip(beta, -BETA_MAX, BETA_MAX).astype(np.int32))

    def _store(self, name: str, value: np.ndarray) -> None:
        self.replaced[name] = value
        self.constants[name] = torch.from_numpy(value)
