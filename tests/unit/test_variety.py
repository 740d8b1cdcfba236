"""Calibration pictures that show a model little are told from others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from demo.scenes import scene
from iseg_tvm.models.checkpoint import load_checkpoint
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization import QuantizeOptions, quantize
from iseg_tvm.quantization.variety import VARIETY_LEAST, variety

SIZE = (128, 128)
FLAT = np.full((*SIZE, 3), 90, np.uint8)
SCENE = scene("train", 1_000_016, SIZE)[0]


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return load_checkpoint(Path(__file__).parents[2] / "demo" / "checkpoint").eval()


def test_best_picture_counts(model: Segmenter) -> None:
    assert 0 <= variety(model, [FLAT]) < VARIETY_LEAST < variety(model, [SCENE]) <= 1
    assert variety(model, [FLAT, SCENE]) == variety(model, [SCENE])


@pytest.mark.parametrize(
    ("images", "warned"), [([FLAT], True), ([SCENE], False), ([FLAT, SCENE], False)]
)
def test_quantize_warns(
    model: Segmenter, images: list[np.ndarray], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    options = QuantizeOptions(rounding="nearest", bias_correction=False)
    with caplog.at_level(logging.WARNING, "iseg_tvm"):
        quantize(model, images, options)
    assert [("patches look alike" in text) for text in caplog.messages] == [True] * warned
