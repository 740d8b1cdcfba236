"""Argmax over classes at patch resolution, then nearest-neighbour upsampling to the image.

Mathematics: upsampling scores by nearest neighbour and taking the argmax per pixel equals taking
the argmax per patch and repeating it (I-Segmenter, arXiv 2509.10334, abstract: nearest-neighbour
upsampling); scores at pixel resolution never exist. Padding rows and columns are cropped.

Integer definition: ``out[y, x] = argmax_c scores[(y // P) * gw + x // P, c]``, lowest index among
equals, uint8. Ranges: at most 256 classes; comparisons only, so nothing can overflow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    OperatorError,
    TensorSpec,
    register,
    require,
    require_attribute,
)
from relay_ops.patch_embed import PATCH_MAX, grid_size

CLASSES_MAX = 256


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``int16 or int32 [gh gw, C] -> uint8[H, W]``."""
    dtype = types["scores"].dtype
    if dtype not in ("int16", "int32"):
        raise OperatorError(f"'scores' must be int16 or int32, is {types['scores']}")
    tokens, classes = require(types, "scores", dtype, None, None).shape
    patch = require_attribute(attributes, "patch", 1, PATCH_MAX)
    height = require_attribute(attributes, "height", 1, 2**16)
    width = require_attribute(attributes, "width", 1, 2**16)
    rows, cols = grid_size(height, width, patch)
    if rows * cols != tokens:
        raise OperatorError(f"{tokens} rows of scores are not the {rows} x {cols} patches")
    if not 1 <= classes <= CLASSES_MAX:
        raise OperatorError(f"{classes} classes are outside [1, {CLASSES_MAX}]")
    return TensorSpec((height, width), "uint8")


def reference(scores: np.ndarray, patch: int, height: int, width: int) -> np.ndarray:
    """Normative: int16 or int32 (gh * gw, C) -> uint8 (H, W)."""
    fp.check_range("classes", scores.shape[1], 1, CLASSES_MAX)
    rows, cols = grid_size(height, width, patch)
    best = scores.argmax(axis=1).astype(np.uint8).reshape(rows, cols)
    return best.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]


def forward(scores: torch.Tensor, patch: int, height: int, width: int) -> torch.Tensor:
    """PyTorch form of :func:`reference` (argmax through max: PyTorch leaves ties undefined)."""
    rows, cols = grid_size(height, width, patch)
    classes = scores.shape[1]
    index = torch.arange(classes, device=scores.device)
    is_best = scores == scores.amax(dim=1, keepdim=True)
    best = torch.where(is_best, index, classes).amin(dim=1).to(torch.uint8).reshape(rows, cols)
    tall = best.repeat_interleave(patch, dim=0).repeat_interleave(patch, dim=1)
    return tall[:height, :width].contiguous()


def lower(context: LoweringContext) -> Lowering:
    """Row-parallel kernel over patch rows."""
    from iseg_tvm.kernels import elementwise

    return elementwise.lower_argmax_upsample(context)


OPERATOR = register(
    Operator(
        name="argmax_upsample",
        tensors=("scores",),
        attributes={"patch": "int", "height": "int", "width": "int"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
    )
)
