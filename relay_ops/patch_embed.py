"""Patch embedding: non-overlapping P x P patches of the uint8 image times an int8 matrix.

Mathematics: a convolution with kernel = stride = P on the normalised image
``(pixel / 255 - mean) / std`` (Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1).
Normalisation is folded: ``pixel - 128`` is the int8 activation, ``1 / (255 std_c)`` goes into the
weights and ``(128 / 255 - mean_c) / std_c`` times the weights into the bias. Padding to a multiple
of P (right and bottom, as Segmenter does with zeros after normalisation) uses the pixel
``pad[c] = round(255 mean_c)``.

Integer definition: ``acc[p, n] = bias[n] + sum (image[y, x, c] - 128) * weight[n, k]`` over the
patch p (row-major grid), ``k = (dy * P + dx) * 3 + c``, ``weight`` int8 in [-127, 127]
(D, P * P * 3), ``bias`` int32 in [-2**29, 2**29].
Overflow: as in ``linear`` with ``K = 3 P**2 <= 32768``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from relay_ops import linear
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

PATCH_MAX = 104


def grid_size(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches after padding to a multiple of ``patch``."""
    return -(-height // patch), -(-width // patch)


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(uint8[H, W, 3], int8[D, P P 3], int32[D]) -> int32[gh gw, D]``."""
    height, width, _ = require(types, "image", "uint8", None, None, 3).shape
    patch = require_attribute(attributes, "patch", 1, PATCH_MAX)
    columns, _ = require(types, "weight", "int8", None, patch * patch * 3).shape
    require(types, "bias", "int32", columns)
    if height < 1 or width < 1:
        raise OperatorError(f"image of {height} x {width} pixels is empty")
    if len(attributes["pad"]) != 3 or not all(0 <= int(p) <= 255 for p in attributes["pad"]):
        raise OperatorError(f"attribute 'pad' must be 3 pixel values, is {attributes['pad']}")
    rows, cols = grid_size(height, width, patch)
    return TensorSpec((rows * cols, columns), "int32")


def reference(
    image: np.ndarray, weight: np.ndarray, bias: np.ndarray, patch: int, pad: Sequence[int]
) -> np.ndarray:
    """Normative: uint8 (H, W, 3) -> int32 (gh * gw, D)."""
    height, width, _ = image.shape
    rows, cols = grid_size(height, width, patch)
    padded = np.empty((rows * patch, cols * patch, 3), dtype=np.int64)
    padded[:] = np.asarray(pad, dtype=np.int64)
    padded[:height, :width] = image
    patches = padded.reshape(rows, patch, cols, patch, 3).transpose(0, 2, 1, 3, 4)
    return linear.reference(patches.reshape(rows * cols, -1) - 128, weight, bias)


def forward(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, patch: int, pad: Sequence[int]
) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    return linear.forward(pixel_rows(image, patch, pad), weight, bias)


def pixel_rows(image: torch.Tensor, patch: int, pad: Sequence[int]) -> torch.Tensor:
    """One row of ``pixel - 128`` a patch: uint8 (H, W, 3) to int32 (gh gw, P P 3)."""
    height, width, _ = image.shape
    rows, cols = grid_size(height, width, patch)
    fill = torch.tensor(list(pad), dtype=torch.int32, device=image.device)
    padded = fill.expand(rows * patch, cols * patch, 3).clone()
    padded[:height, :width] = image.to(torch.int32)
    patches = padded.reshape(rows, patch, cols, patch, 3).permute(0, 2, 1, 3, 4)
    return patches.reshape(rows * cols, -1) - 128


def lower(context: LoweringContext) -> Lowering:
    """GEMM that reads the image directly."""
    from iseg_tvm.kernels import products

    return products.lower_patch_embed(context)


OPERATOR = register(
    Operator(
        name="patch_embed",
        tensors=("image", "weight", "bias"),
        attributes={"patch": "int", "pad": "int[]"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
        space=linear.space,
    )
)
