"""The shipped demo model: accuracy in integers, and the same bits everywhere on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from demo.evaluate import SIZE, float_segment, photo_figures, scene_figures
from iseg_tvm.artifact import QuantizedModel, save_model
from iseg_tvm.build import compile_bundle
from iseg_tvm.images import load_photo, photo_to_array
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.models.checkpoint import load_checkpoint
from iseg_tvm.quantization import QuantizeOptions, quantize
from iseg_tvm.reference_model import run_reference
from iseg_tvm.runtime import load
from iseg_tvm.targets import load_target

DEMO = Path(__file__).resolve().parents[2] / "demo"
SCENES = range(24)


def photograph(path: Path) -> np.ndarray:
    """A picture file at the demo model's size."""
    return photo_to_array(load_photo(path), SIZE)


@pytest.fixture(scope="module")
def quantized() -> QuantizedModel:
    """The shipped checkpoint, quantized from its one calibration image with default options."""
    image = photograph(DEMO / "calibration.png")
    return quantize(load_checkpoint(DEMO / "checkpoint"), [image], QuantizeOptions())


def test_integers_lose_less_than_a_point(quantized: QuantizedModel) -> None:
    module = IntegerSegmenter(quantized)

    def integers(image: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(image)).numpy()

    floats = float_segment(load_checkpoint(DEMO / "checkpoint"))
    held_out = [scene_figures(s, SCENES)["miou_nearest"] for s in (floats, integers)]
    photo = [photo_figures(s)["pixel_accuracy"] for s in (floats, integers)]
    print(f"held-out mIoU FP32 {held_out[0]}, integer {held_out[1]}; demo photo {photo}")
    assert held_out[1] >= held_out[0] - 0.01
    assert photo[1] >= photo[0] - 0.01


def test_same_bits_on_photographs(quantized: QuantizedModel, tmp_path: Path) -> None:
    bundle = compile_bundle(quantized, load_target("native"), tmp_path / "bundle")
    library, module = load(bundle.path, num_threads=2), IntegerSegmenter(quantized)
    pictures = [photograph(DEMO / "photo.jpg")]
    for picture in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
        pictures.append(photo_to_array(Image.fromarray(picture), SIZE))
    for picture in pictures:
        expected = run_reference(quantized, picture)
        np.testing.assert_array_equal(library.run(picture), expected)
        np.testing.assert_array_equal(module(torch.from_numpy(picture)).numpy(), expected)
        assert len(np.unique(expected)) > 1


def test_model_file_is_under_five_megabytes(quantized: QuantizedModel, tmp_path: Path) -> None:
    assert save_model(quantized, tmp_path / "model.safetensors").stat().st_size < 5_000_000
