"""``compile`` of a tiny integer model: a bundle that runs, and the input it refuses."""

from pathlib import Path

import pytest

from iseg_tvm.artifact import save_model
from iseg_tvm.cli.main import main
from tests.helpers import random_quantized_model, tiny_config


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
