"""Seg-T-Mask/16 at 512 x 512 pixels with 150 classes: NumPy, PyTorch and the library agree.

Random weights; class scores are compared, in which a wrong bit shows that the argmax would hide.
"""

from __future__ import annotations

import numpy as np
import torch

from iseg_tvm.models.config import segmenter_preset
from iseg_tvm.reference_model import reference_graph
from iseg_tvm.targets import load_target
from relay_ops import OPERATORS
from tests.helpers import random_image, random_quantized_model
from tests.integration.test_compiled_model import Scores, compile_module

SIZE = (512, 512)


def blocks(seed: int) -> np.ndarray:
    """Image of 64 coloured squares: flat patches, and edges inside patches."""
    return random_image(8, 8, seed).repeat(64, axis=0).repeat(64, axis=1)[:, ::-1].copy()


def test_scores_agree() -> None:
    model = random_quantized_model(segmenter_preset("seg_tiny_mask", image_size=SIZE), 3)
    run = compile_module(Scores(model), SIZE, load_target("native"))
    reference, graph = Scores(model), reference_graph(model)
    images = [random_image(*SIZE, 1), blocks(2), np.zeros((*SIZE, 3), np.uint8)]
    classes: set[int] = set()
    for index, image in enumerate(images):
        got = run(image)
        with torch.inference_mode():
            np.testing.assert_array_equal(got, reference(torch.from_numpy(image)).numpy())
        if index == 0:  # NumPy needs ten seconds an image
            np.testing.assert_array_equal(got, graph.decode(graph.encode(image)))
        class_map = OPERATORS["argmax_upsample"].reference(got, 16, *SIZE)
        classes |= set(np.unique(class_map).tolist())
    assert len(classes) > 3
