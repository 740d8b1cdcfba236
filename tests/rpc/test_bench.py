"""``bench`` and ``evaluate`` here and on a board: the same code, the same bits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.benchmarking.compare import compare
from iseg_tvm.benchmarking.result import BenchmarkResult, read_json
from iseg_tvm.bundle import MANIFEST_NAME
from iseg_tvm.cli.main import main
from iseg_tvm.files import sha256_file
from iseg_tvm.network import Address
from iseg_tvm.sample import EXPECTED_NAME
from tests.conftest import TOY_CLASSES, TOY_SIZE
from tests.rpc.conftest import KEY

FEW = ["--repeat", "5", "--warmup", "1", "-q"]


@pytest.fixture(params=["here", "tracker", "direct"])
def place(request: pytest.FixtureRequest) -> list[str]:
    """Flags for each place a bundle can be measured at."""
    if request.param == "here":
        return []
    tracker: Address = request.getfixturevalue("tracker")
    request.getfixturevalue("board")
    if request.param == "tracker":
        return ["--tracker", str(tracker), "--key", KEY]
    return ["--rpc", str(request.getfixturevalue("direct_board")), "--key", "direct"]


def test_result(
    place: list[str], toy_bundle_with_sample: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, table = tmp_path / "result.json", tmp_path / "results.csv"
    command = ["bench", "--bundle", str(toy_bundle_with_sample), *place, *FEW]
    command += ["-o", str(out), "--csv", str(table)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "48 pixels equal the bundle's expected class map" in printed
    assert f"Generated: {out}" in printed
    result = read_json(out)
    assert result.check.equal
    assert len(result.times_ms) == 5
    assert min(result.times_ms) > 0
    assert result.kernels
    assert all(kernel.total_ms > 0 for kernel in result.kernels)
    assert result.after.peak_memory_bytes
    latency = result.latency_ms()
    assert latency["min"] <= latency["p10"] <= latency["median"] <= latency["p90"]
    assert BenchmarkResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert main(command) == 0
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert rows[0]["bits_equal"] == "True"
    assert float(rows[0]["median_ms"]) == latency["median"]
    assert rows[0]["miou"] == ""  # unknown, and not 0


def forge_expected(folder: Path) -> None:
    """Make the bundle expect another class in one pixel."""
    path = folder / EXPECTED_NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"][EXPECTED_NAME]["sha256"] = sha256_file(path)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def test_wrong_bits_are_not_measured(
    place: list[str], toy_bundle_with_sample: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forge_expected(toy_bundle_with_sample)
    out = tmp_path / "result.json"
    command = ["bench", "--bundle", str(toy_bundle_with_sample), *place, *FEW, "-o", str(out)]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 of 48 pixels differ from the bundle's expected class map" in captured.err
    assert not out.exists()


def test_bundle_without_a_sample(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--bundle", str(toy_bundle), *FEW]) == 2
    assert "--unchecked" in capsys.readouterr().err
    assert main(["bench", "--bundle", str(toy_bundle), "--unchecked", "--json", *FEW]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["check"] == {"reference": "", "pixels": None, "differing": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no bundle to measure"),
        (["compare", "a.json"], "unknown arguments"),
        (["compare", "a.json", "b.json"], "cannot read a.json"),
        (["--bundle", "absent"], "no bundle folder absent"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_tracker(
    toy_bundle_with_sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--bundle", str(toy_bundle_with_sample), "--tracker", "127.0.0.1:1"]
    assert main([*command, "--key", KEY]) == 2
    assert "no tracker answers at 127.0.0.1:1: Connection refused" in capsys.readouterr().err


@pytest.fixture
def measured(toy_bundle_with_sample: Path, tmp_path: Path) -> Callable[[float, str], Path]:
    """Function that writes a result with given times and board."""
    template = tmp_path / "template.json"
    command = ["bench", "--bundle", str(toy_bundle_with_sample), *FEW, "-o", str(template)]
    assert main(command) == 0

    def write(factor: float, board: str) -> Path:
        values = json.loads(template.read_text())
        values["times_ms"] = [factor * t for t in (10.0, 10.1, 10.2, 10.3, 10.4)]
        values["board"]["name"] = board
        path = tmp_path / f"{board}-{factor}.json"
        path.write_text(json.dumps(values))
        return path

    return write


def test_compare(
    measured: Callable[[float, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = measured(2.0, "pi"), measured(1.0, "pi")
    capsys.readouterr()
    assert main(["bench", "compare", str(slow), str(fast)]) == 0
    printed = capsys.readouterr().out
    assert "the second is 2.00 times faster (median)" in printed
    assert "not the same" not in printed
    comparison = compare(read_json(fast), read_json(slow))
    assert {line.name: line.ratio for line in comparison.latency}["median"] == pytest.approx(2)
    assert comparison.verdict.startswith("the first is 2.00")


def test_compare_of_noise_and_of_two_boards(measured: Callable[[float, str], Path]) -> None:
    comparison = compare(read_json(measured(1.0, "pi")), read_json(measured(1.01, "desk")))
    assert comparison.verdict.startswith("no difference beyond the noise")
    assert comparison.differences == ("board: pi / desk",)


def test_evaluate_on_a_board(
    place: list[str], toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One wrong pixel of 48: the same confusion matrix wherever the bundle runs."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    image = np.random.default_rng(1).integers(0, 4, (*TOY_SIZE, 3), dtype=np.uint8)
    mask = np.minimum(image.max(axis=2), 2)
    mask[0, 0] = (mask[0, 0] + 1) % len(TOY_CLASSES)
    Image.fromarray(image).save(tmp_path / "data/images/a.png")
    Image.fromarray(mask).save(tmp_path / "data/masks/a.png")
    command = ["evaluate", "--bundle", str(toy_bundle), "--dataset", "folder", "--whole-image"]
    assert main([*command, "--root", str(tmp_path / "data"), "--json", "-q", *place]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["pixel_accuracy"] == pytest.approx(47 / 48)


def test_only_bundles_run_on_boards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    command = ["evaluate", "--model", "m.safetensors", "--dataset", "folder"]
    assert main([*command, "--root", str(tmp_path), "--rpc", "127.0.0.1:1"]) == 2
    assert "a model runs on this machine only" in capsys.readouterr().err
