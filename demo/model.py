"""The demo model: its configuration, and where its training starts."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from demo.photographs import CLASSES
from iseg_tvm.models.config import DecoderConfig, EncoderConfig, SegmenterConfig

SIZE = 256
PATCH = 8


def demo_config() -> SegmenterConfig:
    """Return the configuration of the demo model."""
    return SegmenterConfig(
        encoder=EncoderConfig(
            name="vit_demo_patch8_256", patch_size=PATCH, embed_dim=128, depth=4, num_heads=2
        ),
        decoder=DecoderConfig(name="mask_transformer", num_layers=1, num_heads=2),
        num_classes=len(CLASSES),
        image_size=(SIZE, SIZE),
        l2_norm=False,  # the integer model has none
        dataset="demo",
    )


def frequency_filters(images: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
    """Return a start for the patch embedding: whitened cosine frequencies of three colour axes.

    Fine texture is a hundredth of the variance of a patch. From random filters the model learns
    colours for most of a short training; with every frequency at unit variance it sees texture
    from the first step.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (B, H, W, 3), uint8; their patches say how strong each frequency is.
    width : int
        Number of filters: one half for brightness, a quarter for each of the two colour axes.

    Returns
    -------
    tuple of Tensor
        Weights of shape (width, 3, patch, patch) for images in [-1, 1], and biases (width,).
    """
    index = np.arange(PATCH)
    wave = np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * PATCH)) * math.sqrt(2 / PATCH)
    wave[0] /= math.sqrt(2)
    low_first = sorted(np.ndindex(PATCH, PATCH), key=lambda uv: (sum(uv), uv))
    axes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    filters = np.stack(
        [
            np.einsum("c,i,j->cij", axis, wave[u], wave[v])
            for axis, share in zip(axes, (2, 4, 4), strict=True)
            for u, v in low_first[: width // share]
        ]
    )
    grid = SIZE // PATCH
    patches = images.reshape(-1, grid, PATCH, grid, PATCH, 3) / 127.5 - 1
    found = np.einsum("fcij,brisjc->fbrs", filters, patches, optimize=True).reshape(width, -1)
    scale = 1 / np.sqrt(found.var(axis=1) + 2e-3)  # the camera's grain is not worth amplifying
    weights = torch.from_numpy(filters * scale[:, None, None, None]).float()
    return weights, torch.from_numpy(-found.mean(axis=1) * scale).float()
