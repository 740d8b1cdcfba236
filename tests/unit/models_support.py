"""What the model tests share: small configurations, and weights from a formula."""

import dataclasses

import numpy as np
import torch

from iseg_tvm.models.config import (
    DecoderConfig,
    EncoderConfig,
    SegmenterConfig,
    decoder_preset,
)
from iseg_tvm.models.segmenter import Segmenter, build_segmenter

_MASK = np.uint64(0xFFFFFFFF)


def small_config(
    decoder: str = "mask_transformer",
    *,
    width: int = 128,
    depth: int = 2,
    distilled: bool = False,
    image_size: tuple[int, int] = (24, 40),
    **changes: object,
) -> SegmenterConfig:
    """Return a model of a few thousand parameters that the official code can build too."""
    encoder = EncoderConfig(
        name="vit_small_test_patch8",
        patch_size=8,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        distilled=distilled,
        normalization="deit" if distilled else "vit",
    )
    head: DecoderConfig = decoder_preset(decoder, width)
    config = SegmenterConfig(encoder, head, num_classes=5, image_size=image_size)
    return dataclasses.replace(config, **changes)


def formula_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return weights that depend on names' order and on shapes only, not on a random generator.

    Values are an integer hash of their place, spread over [-0.25, 0.25); scales of norms are in
    [0.7, 1.3).
    """
    weights = {}
    for i, name in enumerate(sorted(shapes)):
        place = np.arange(int(np.prod(shapes[name])), dtype=np.uint64) + np.uint64(i * 1_000_003)
        mixed = (place * np.uint64(2_654_435_761)) & _MASK
        mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(0x45D9F3B)) & _MASK
        spread = (mixed ^ (mixed >> np.uint64(16))).astype(np.float64) / 2**31 - 1
        norm_scale = "norm" in name and name.endswith("weight")
        values = 1 + 0.3 * spread if norm_scale else 0.25 * spread
        weights[name] = torch.from_numpy(values.astype(np.float32).reshape(shapes[name]))
    return weights


def formula_model(config: SegmenterConfig) -> Segmenter:
    """Return a model with `formula_weights`."""
    model = build_segmenter(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(formula_weights(shapes))
    return model


def formula_image(height: int, width: int) -> np.ndarray:
    """Return a picture without noise: shape (1, height, width, 3), uint8."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 11 * x + 101 * c + y * x) % 256).astype(np.uint8)[None]
