"""``quantize`` on a tiny checkpoint: the file it writes, and the input it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.artifact import load_model
from iseg_tvm.cli import quantize as command
from iseg_tvm.cli.main import main
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.quantization import options
from iseg_tvm.quantization.observers import OBSERVERS
from tests.cli.support import check_refused
from tests.helpers import tiny_config

CLASSES = [[f"thing {i}", [i, 2 * i, 3 * i]] for i in range(7)]


@pytest.fixture(scope="module")
def shared_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of random weights with 7 classes, for 16 x 16 pixels."""
    return save_checkpoint(build_segmenter(tiny_config()), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def quantize(checkpoint: Path, calibration: Path, *more: str) -> tuple[int, Path]:
    out = calibration.parent / "model.safetensors"
    arguments = ["--checkpoint", str(checkpoint), "--calibration", str(calibration)]
    return main(["quantize", *arguments, "-o", str(out), *more]), out


def test_one_picture(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = quantize(shared_checkpoint, photo)
    captured = capsys.readouterr()
    assert status == 0
    assert captured.out == f"Generated: {out}\n"
    assert "calibrating 1/1" in captured.err
    model = load_model(out)
    assert model.input_size == (16, 16)
    assert model.classes[0] == "class 0"
    assert len(model.palette) == 7


def test_flags_reach_the_quantizer(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        "--observer mse --activation shiftgelu --polynomial linear --image-size 20 12"
        " --rounding nearest --equalization 0.25 --no-lambda-search --no-feature-scales"
    )
    status, out = quantize(shared_checkpoint, photo.parent, *flags.split(), "--json", "-q")
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    values = json.loads(captured.out)
    assert values["image_size"] == [20, 12]
    assert values["generated"] == [str(out)]
    assert values["bytes"] == out.stat().st_size
    model = load_model(out)
    assert (model.input_size, model.polynomial) == ((20, 12), "linear")
    assert model.provenance["options"]["observer"] == "mse"
    assert model.provenance["options"]["activation"] == "shiftgelu"
    assert model.provenance["options"]["rounding"] == "nearest"
    assert model.provenance["options"]["equalization"] == 0.25
    assert model.provenance["options"]["lambda_search"] is False
    assert model.provenance["options"]["feature_scales"] is False
    assert model.provenance["options"]["bias_correction"] is True


def test_choices_are_the_quantizers() -> None:
    assert set(command.OBSERVERS) == set(OBSERVERS)
    assert set(command.ACTIVATIONS) == set(options.ACTIVATIONS)
    assert set(command.POLYNOMIALS) == set(options.POLYNOMIALS)
    assert set(command.ROUNDINGS) == set(options.ROUNDINGS)
    defaults = options.QuantizeOptions()
    for flag, (default, _) in command.SWITCHES.items():
        assert getattr(defaults, flag.replace("-", "_")) is default


def test_class_names_beside_the_checkpoint(photo: Path) -> None:
    checkpoint = save_checkpoint(build_segmenter(tiny_config()), photo.parent / "checkpoint")
    (checkpoint / "classes.json").write_text(json.dumps(CLASSES))
    status, out = quantize(checkpoint, photo, "-q")
    assert status == 0
    assert load_model(out).classes == tuple(name for name, _ in CLASSES)
    assert load_model(out).palette[6] == (6, 12, 18)


def test_wrong_number_of_class_names(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photo.with_name("six.json")
    file.write_text(json.dumps(CLASSES[:6]))
    status, out = quantize(shared_checkpoint, photo, "--classes", str(file))
    check_refused(status, out, capsys, "names 6 classes, and the model has 7")


def test_empty_calibration_folder(
    shared_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    check_refused(*quantize(shared_checkpoint, empty), capsys, "has no pictures")


def test_calibration_that_is_no_picture(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.write_text("hello")
    check_refused(*quantize(shared_checkpoint, photo), capsys, "is not a picture")


def test_missing_checkpoint(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = quantize(photo.parent / "absent", photo)
    check_refused(status, out, capsys, "does not exist")


def test_percentile_out_of_range(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = quantize(shared_checkpoint, photo, "--percentile", "101")
    check_refused(status, out, capsys, "percentile 101")


def test_info_of_checkpoint_and_model(
    shared_checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = quantize(shared_checkpoint, photo, "-q")
    capsys.readouterr()
    assert main(["info", "--json", str(shared_checkpoint)]) == 0
    checkpoint = json.loads(capsys.readouterr().out)
    assert checkpoint["kind"] == "float checkpoint"
    assert checkpoint["parameters"] > 1000
    assert main(["info", "--json", str(out)]) == 0
    model = json.loads(capsys.readouterr().out)
    assert model["kind"] == "integer model"
    assert model["config"] == checkpoint["config"]
    assert set(model["tensor_bytes"]) == {"int8", "int16", "int32"}
