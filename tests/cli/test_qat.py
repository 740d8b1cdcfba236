from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.artifact import load_model
from iseg_tvm.cli.main import main
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from tests.helpers import noise_dataset, tiny_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of random weights with 7 classes for 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("models") / "checkpoint"
    return save_checkpoint(build_segmenter(tiny_config()), folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of noise with masks of 7 classes."""
    return noise_dataset(tmp_path / "data", (20, 18), 3)


def qat(checkpoint: Path, data: Path, out: Path, *more: object) -> int:
    flags = ["--checkpoint", checkpoint, "--root", data, "-o", out, "--batch", 2, *more]
    return main(["qat", *map(str, flags)])


def test_train_then_resume(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    assert qat(checkpoint, data, out, "--epochs", 2, "--lr", 1e-2) == 0
    captured = capsys.readouterr()
    assert captured.out == f"Generated: {out}\n"
    assert "step 4/4" in captured.err
    assert "s to go" in captured.err
    first = load_model(out)
    assert first.provenance["qat"]["options"]["steps"] == 4
    out.unlink()
    assert qat(checkpoint, data, out, "--epochs", 2, "--lr", 1e-2, "--resume", "-q") == 0
    again = load_model(out)
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    capsys.readouterr()
    assert qat(checkpoint, data, out, "--steps", 9, "--lr", 1e-2, "--resume", "-q") == 2
    assert "belongs to another options" in capsys.readouterr().err


def test_damaged_files_are_named_and_fail_only_strict_runs(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "masks/1.png").unlink()
    (data / "images/0.png").write_bytes(b"no picture")
    out = tmp_path / "model.safetensors"
    assert qat(checkpoint, data, out, "--steps", 3, "--json", "-q") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"skipped 0: {data / 'images/0.png'} is not a picture Pillow can read",
        f"skipped 1: {data / 'masks/1.png'} does not exist",
        "2 samples were skipped",
    ]
    assert json.loads(captured.out)["skipped"] == ["0", "1"]
    assert qat(checkpoint, data, out, "--steps", 3, "-q", "--strict") == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--root", "nowhere"), "data set folder nowhere does not exist"),
        (("--dataset", "coco"), "unknown data set 'coco'"),
        (("--window", "6", "8"), "a window of 6 x 8 is no multiple of the patch"),
        (("--weight-bits", "1"), "--weight-bits 1 is outside [2, 8]"),
        (("--device", "nowhere"), "--device nowhere"),
        (("--resume",), "model.safetensors.state does not exist"),
        (("--model", "{data}/images/0.png"), "damaged or not a safetensors file"),
        (("--model", "m", "--calibration", "c"), "--model is quantized already"),
    ],
)
def test_bad_requests(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag.format(data=data) for flag in flags]
    out = tmp_path / "model.safetensors"
    assert qat(checkpoint, data, out, "--steps", 1, "-q", *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message, *hints = captured.err.splitlines()
    assert message.startswith("error: ")
    assert reason in message
    assert len(hints) == 1
    assert not out.exists()
