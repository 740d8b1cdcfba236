"""Integer models with random weights, for what depends on shapes alone: tuning, timing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.models.config import segmenter_preset
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.quantization import quantize

_GRID = 4
"""Patches on a side while quantizing: activations' ranges do not depend on the size."""


def random_model(architecture: str, seed: int) -> QuantizedModel:
    """Quantize a model of the paper with random weights from one image of noise.

    Parameters
    ----------
    architecture : ``seg_{tiny,small,base,large}_{mask,linear}``
    seed : of weights and image

    Returns
    -------
    QuantizedModel
        Of the integer-only form (no L2 norm), for 512 x 512 pixels.

    Raises
    ------
    IsegError
        The name is unknown.
    """
    config = segmenter_preset(architecture, l2_norm=False)
    side = _GRID * config.encoder.patch_size
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    small = replace(config, image_size=(side, side))
    model = quantize(build_segmenter(small, seed), [noise])
    return model.with_input_size(*config.image_size)
