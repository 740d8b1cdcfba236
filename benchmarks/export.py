"""The float Segmenter as ONNX graphs: a normalised image in, a class map out.

Two forms of the model, with the same random weights: ``integer-form`` is what our library computes,
in floats (no L2 norm, argmax over the patches' scores, classes repeated over the patch's
pixels); ``original-head`` is Segmenter as published (L2 norm, scores of all classes upsampled
bilinearly, argmax of every pixel). Two ways of writing its attention: as plain operators, or as
ONNX Runtime's own ``MultiHeadAttention``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import models
from iseg_tvm.models.segmenter import Segmenter, normalize_uint8
from iseg_tvm.models.timm_import import Attention

INTEGER_FORM, ORIGINAL_HEAD = "integer-form", "original-head"
FORMS = (INTEGER_FORM, ORIGINAL_HEAD)
_OPSET = 17


class ClassMap(nn.Module):
    """A Segmenter that ends in a class map.

    Parameters
    ----------
    segmenter : Segmenter
        Its `config.l2_norm` must be that of the form.
    form : str
        One of `FORMS`.
    """

    def __init__(self, segmenter: Segmenter, form: str) -> None:
        super().__init__()
        self.segmenter, self.form = segmenter, form

    def forward(self, im: Tensor) -> Tensor:
        """Map a normalised image (1, 3, H, W) to classes (H, W), uint8."""
        if self.form == ORIGINAL_HEAD:
            return self.segmenter(im).argmax(1)[0].to(torch.uint8)
        patch = self.segmenter.config.encoder.patch_size
        classes = self.segmenter.forward_scores(im).argmax(1)[0].to(torch.uint8)
        rows, columns = classes.shape
        wide = classes.view(rows, 1, columns, 1).expand(rows, patch, columns, patch)
        return wide.reshape(rows * patch, columns * patch)


class _MultiHeadAttention(torch.autograd.Function):
    """``softmax(q k^T / sqrt(d)) v``, exported as ONNX Runtime's fused operator."""

    @staticmethod
    def forward(_context: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, q: Any, k: Any, v: Any, heads: int) -> Any:
        out = graph.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads)
        out.setType(q.type())
        return out


class FusedAttention(nn.Module):
    """timm's attention with three projections, whose outputs the fused operator takes."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        qkv, width = attention.qkv, attention.qkv.in_features
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        for i, projection in enumerate(self.projections):
            projection.weight.data = qkv.weight.data[i * width : (i + 1) * width]
            projection.bias.data = qkv.bias.data[i * width : (i + 1) * width]
        self.proj = attention.proj

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Map tokens (B, N, d) to (B, N, d)."""
        q, k, v = (projection(x) for projection in self.projections)
        return self.proj(_MultiHeadAttention.apply(q, k, v, self.heads))


def fuse_attention(model: nn.Module) -> None:
    """Replace every attention of `model` by `FusedAttention`."""
    for module in list(model.modules()):
        if isinstance(getattr(module, "attn", None), Attention):
            module.attn = FusedAttention(module.attn)


def class_map_model(name: str, form: str) -> ClassMap:
    """Build the float model of a name in `models.PRESETS`."""
    segmenter = models.float_model(name, l2_norm=form == ORIGINAL_HEAD)
    return ClassMap(segmenter, form).eval()


def normalised_photo() -> Tensor:
    """Return the image that all float engines are given, (1, 3, H, W), float32."""
    segmenter = models.config("seg-t", l2_norm=False)
    return normalize_uint8(models.photo()[None], segmenter.encoder)


def export_onnx(name: str, form: str, path: Path, *, fused: bool) -> None:
    """Write a model as ONNX; with `fused`, for ONNX Runtime alone."""
    model = class_map_model(name, form)
    if fused:
        fuse_attention(model)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # shapes are traced as constants, on purpose
        torch.onnx.export(
            model,
            (normalised_photo(),),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["image"],
            output_names=["classes"],
            custom_opsets={"com.microsoft": 1} if fused else None,
        )
