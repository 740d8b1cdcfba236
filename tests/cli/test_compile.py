"""``compile`` of a tiny integer model: a bundle that runs, and the input it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.artifact import load_model, save_model
from iseg_tvm.cli.main import main
from iseg_tvm.reference_model import run_reference
from iseg_tvm.runtime import load
from tests.helpers import random_image, random_quantized_model, tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An integer model with random weights, 7 classes, for 16 x 16 pixels."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return save_model(random_quantized_model(tiny_config()), path)


def compile_model(model: Path, out: Path, *more: str) -> int:
    return main(["compile", "--model", str(model), "-o", str(out), *more])


def refused(status: int, capsys: pytest.CaptureFixture[str], message: str) -> None:
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_unknown_target(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = compile_model(model, tmp_path / "bundle", "--target", "rpi44")
    refused(status, capsys, "did you mean rpi4?")
    assert list(tmp_path.iterdir()) == []


def test_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(compile_model(tmp_path / "absent", tmp_path / "b"), capsys, "no such model file")


def test_truncated_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    refused(compile_model(half, tmp_path / "bundle"), capsys, "damaged")
    assert not (tmp_path / "bundle").exists()


def test_output_folder_with_other_files(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    refused(compile_model(model, tmp_path), capsys, "not a folder written by iseg-tvm")
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_bundle_runs_and_equals_the_reference(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, dump = tmp_path / "bundle", tmp_path / "dump"
    flags = ["--image-size", "21", "30", "--json", "--debug-dump", str(dump)]
    status = compile_model(model, out, *flags)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    values = json.loads(captured.out)
    assert values["generated"] == [str(out)]
    assert values["image_size"] == [21, 30]
    assert values["kernels"]
    assert "compiling 0/1" in captured.err
    assert "patch_embed" in min(dump.iterdir()).read_text()
    image = random_image(21, 30)
    expected = run_reference(load_model(model).with_input_size(21, 30), image)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(load(out).run(image), expected)
