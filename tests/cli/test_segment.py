"""``segment``, with the toy bundle: files written, output, and everything it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.bundle import LIBRARY_NAME, MANIFEST_NAME
from iseg_tvm.cli.main import main
from tests.cli.support import check_refused
from tests.conftest import TOY_SIZE


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo twice the toy bundle's size: left half class 0, right half class 2."""
    height, width = TOY_SIZE
    pixels = np.zeros((2 * height, 2 * width, 3), np.uint8)
    pixels[:, width:] = 200
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def segment(photo: Path, bundle: Path, *more: str) -> tuple[int, Path]:
    out = photo.parent / "overlay.png"
    return main(["segment", str(photo), "--bundle", str(bundle), "--out", str(out), *more]), out


def test_overlay_and_mask(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = photo.with_name("mask.png")
    status, out = segment(photo, toy_bundle, "--mask", str(mask))
    assert status == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[-2:] == [f"Generated: {out}", f"Generated: {mask}"]
    assert "Segmenting" in captured.err
    with Image.open(mask) as image:
        class_map = np.asarray(image)
    assert class_map.shape == (16, 12)
    assert (class_map[:, :4] == 0).all()
    assert (class_map[:, 7:] == 2).all()
    dark = 100 * np.mean(class_map == 0)
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert ["dark", f"{dark:.1f} %"] in cells
    with Image.open(out) as image:
        assert image.width > 12
        assert image.getpixel((0, 0)) == (0, 0, 0)


def test_json(photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = segment(photo, toy_bundle, "--json", "-q", "--repeat", "4", "--threads", "1")
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    values = json.loads(captured.out)
    assert values["generated"] == [str(out)]
    assert values["image_size"] == list(TOY_SIZE)
    assert values["threads"] == 1
    assert values["latency_ms"]["repeats"] == 4
    latency = values["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p90"] <= latency["max"]
    assert sum(c["pixels"] for c in values["classes"]) == 16 * 12


def test_latency_is_null_when_not_measured(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(photo, toy_bundle, "--json")
    assert json.loads(capsys.readouterr().out)["latency_ms"] is None


def test_latency_table(photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment(photo, toy_bundle, "--repeat", "3")
    out = capsys.readouterr().out
    assert "Latency in ms: toy" in out
    assert "median" in out
    assert "\x1b" not in out, "colours without a terminal"


def test_photo_that_is_none(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.write_text("hello")
    check_refused(*segment(photo, toy_bundle), capsys, "is not a picture")


def test_corrupted_library(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (toy_bundle / LIBRARY_NAME).open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3\4\5\6\7")
    check_refused(*segment(photo, toy_bundle), capsys, "its checksum is not the manifest's")


def test_bundle_for_another_cpu(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy_bundle / MANIFEST_NAME
    values = json.loads(path.read_text())
    values["target"] |= {"arch": "riscv64"}
    path.write_text(json.dumps(values))
    check_refused(*segment(photo, toy_bundle), capsys, "is for riscv64 CPUs, and this one is")


def test_no_bundle(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(*segment(photo, photo.parent / "absent"), capsys, "no bundle folder")


def test_too_many_threads(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(*segment(photo, toy_bundle, "--threads", "99999"), capsys, "threads asked for")


def test_wrong_mask_name(photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(*segment(photo, toy_bundle, "--mask", "m.jpg"), capsys, "is written as PNG")


def test_wrong_alpha(photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        segment(photo, toy_bundle, "--alpha", "2")
    assert "'2' is not a number from 0 to 1" in capsys.readouterr().err


def test_output_folder_that_cannot_be_made(
    photo: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo / "overlay.png"
    status = main(["segment", str(photo), "--bundle", str(toy_bundle), "--out", str(out)])
    assert status == 2
    assert f"error: cannot write {out}" in capsys.readouterr().err


def test_a_board_needs_no_torch(photo: Path, toy_bundle: Path) -> None:
    """The whole command, in a process in which the host's packages cannot be imported."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "timm", "xgboost", "safetensors", "yaml", "relay_ops"}:
            raise ImportError(f"{name} is not on a board")
sys.meta_path.insert(0, Refuse())
from iseg_tvm.cli.main import main
status = main(sys.argv[1:])
assert "tvm" not in sys.modules
sys.exit(status)
"""
    out = photo.with_name("o.png")
    arguments = ["segment", str(photo), "--bundle", str(toy_bundle), "--out", str(out)]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"Generated: {out}"), done.stderr
