"""Pictures that say nothing: black, white, one pixel. No scale is zero and nothing crashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.artifact import QuantizedModel, load_model
from iseg_tvm.cli.main import main
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.quantization import QuantizeOptions, quantize
from iseg_tvm.quantization.context import finite_parameters
from iseg_tvm.quantization.equivalence import equivalent, recorded
from iseg_tvm.quantization.grids import recover_grids
from iseg_tvm.quantization.observers import OBSERVERS
from iseg_tvm.reference_model import run_reference
from tests.helpers import random_image, tiny_config
from tests.unit.test_quantization import lively_model

SIZE = (16, 16)
PICTURES = {
    "black": np.zeros((*SIZE, 3), np.uint8),
    "white": np.full((*SIZE, 3), 255, np.uint8),
    "middle": np.full((*SIZE, 3), 128, np.uint8),
    "one pixel": np.array([[[17, 200, 90]]], np.uint8),
}


def assert_usable(model: QuantizedModel) -> None:
    """No requantization that gives 0 whatever comes in, and class maps for other pictures."""
    for name, tensor in model.tensors.items():
        if name.endswith("multiplier"):
            assert (tensor != 0).all(), name
    wide = model.with_input_size(*SIZE)
    for image in (random_image(*SIZE, 1), *(PICTURES[n] for n in ("black", "white", "middle"))):
        class_map = run_reference(wide, image)
        assert class_map.shape == SIZE
        assert class_map.max() < model.config.num_classes


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("picture", PICTURES)
def test_extreme_calibration_pictures(picture: str, observer: str) -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    quantized = quantize(model, [PICTURES[picture]], QuantizeOptions(observer=observer))
    assert_usable(quantized)
    grids = recover_grids(
        quantized, finite_parameters(equivalent(model, recorded(quantized)))
    )
    for site, scale in grids.scale.items():
        assert np.isfinite(scale).all(), site
        assert (np.asarray(scale) > 0).all(), site


def test_a_model_whose_activations_are_all_zero() -> None:
    """The patch embedding is dead and there are no positions: black in, nothing but zeros."""
    model = build_segmenter(tiny_config(image_size=SIZE))
    for parameter in model.parameters():
        parameter.data.zero_()
    quantized = quantize(model, [PICTURES["black"]])
    assert (run_reference(quantized, random_image(*SIZE, 1)) == 0).all()


@pytest.mark.parametrize("picture", PICTURES)
def test_extreme_pictures_from_files(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(lively_model(tiny_config(image_size=SIZE)), tmp_path / "checkpoint")
    Image.fromarray(PICTURES[picture]).save(tmp_path / "photo.png")
    flags = ["--checkpoint", tmp_path / "checkpoint", "--calibration", tmp_path / "photo.png"]
    out = tmp_path / "model.safetensors"
    assert main(["quantize", *map(str, flags), "-o", str(out), "-q"]) == 0
    said = capsys.readouterr().err.splitlines()
    # The model's positions alone tell the patches of the middle grey apart.
    assert [line.endswith("add a picture with several things in it") for line in said] == (
        [] if picture == "middle" else [True]
    )
    assert_usable(load_model(out))
