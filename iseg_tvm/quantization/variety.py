"""Whether calibration images show a model enough of what it can see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.calibration import fused_attention

VARIETY_LEAST = 0.1
"""Pretrained ViT-S, one photograph: 0.24 to 0.64 for scenes (mean IoU at least 0.938 against the
float model), 0.03 to 0.04 for one texture, stars on black, a page of text (down to 0.70)."""


def variety(model: Segmenter, images: Sequence[np.ndarray]) -> float:
    """How much the features of an image differ from patch to patch; the best of the images counts.

    Parameters
    ----------
    model : Segmenter, in evaluation mode
    images : uint8 (H, W, 3) each

    Returns
    -------
    0 (all patches alike) to 1: the variance of the encoder's features over the patches, as a share
    of their mean square.
    """
    return max(_spread(model, image) for image in images)


def _spread(model: Segmenter, image: np.ndarray) -> float:
    with fused_attention(model), torch.no_grad():
        pixels = model.pad(model.normalize_uint8(np.array(image[None], order="C")))
        features = model.encoder.forward_features(pixels)
    patches = features[0, model.config.encoder.num_prefix_tokens :].double()
    square = float(patches.square().mean())
    return float(patches.var(dim=0, correction=0).mean()) / square if square > 0 else 0.0
