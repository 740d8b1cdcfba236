"""Files of the first versions of every format still load (``tests/data/formats``).

They were written by commit f847fbd, ``model_2`` by the commit that introduced version 2 of models.
A format that changes gets a new version number, a reader that understands both, and one more
sample here.
"""

from __future__ import annotations

import json
import platform
import tarfile
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.artifact import load_model
from iseg_tvm.benchmarking.result import read_json
from iseg_tvm.cli.main import main
from iseg_tvm.deployment import read_archive
from iseg_tvm.evaluation.state import load_state
from iseg_tvm.models.checkpoint import read_weight_file
from iseg_tvm.reference_model import run_reference
from iseg_tvm.runtime import load
from iseg_tvm.tuning_files import is_emulated, read_sessions, tuning_logs_dir
from tests.helpers import random_image

FORMATS = Path(__file__).resolve().parents[1] / "data/formats"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle inside the old archive."""
    with tarfile.open(FORMATS / "archive.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "archive/bundle"


def test_model_and_bundle_give_the_same_bits(bundle: Path) -> None:
    """The integers mean today what they meant then, in the reference and in the library."""
    sample = read_sample_of(bundle)
    model = load_model(FORMATS / "model.safetensors")
    assert run_reference(model, sample[0]).tolist() == sample[1].tolist()
    if platform.machine() == "x86_64":
        np.testing.assert_array_equal(load(bundle).run(sample[0]), sample[1])


def test_second_version_of_the_model_gives_the_same_bits() -> None:
    model = load_model(FORMATS / "model_2.safetensors")
    assert model.tensors["encoder.blocks.1.activation.table"].shape == (2, 256)
    expected = np.load(FORMATS / "model_2.npy")  # of an image of noise
    np.testing.assert_array_equal(run_reference(model, random_image(16, 16)), expected)


def read_sample_of(bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """Picture and class map."""
    from iseg_tvm.bundle import read_bundle

    sample = read_bundle(bundle, runnable=False).sample()
    assert sample is not None
    return sample.image, sample.class_map


def test_archive() -> None:
    manifest, names = read_archive(FORMATS / "archive.tar.gz")
    assert manifest.target.name == "x86-generic"
    assert "run.py" in names


def test_benchmark_result() -> None:
    assert len(read_json(FORMATS / "bench.json").times_ms) == 3


def test_evaluation_state() -> None:
    values = json.loads((FORMATS / "evaluation.state").read_text())
    state = load_state(FORMATS / "evaluation.state", values["identity"], 3)
    assert state.done == 1


def test_training_state() -> None:
    state = read_weight_file(FORMATS / "qat.state")
    assert state["format"] == "iseg-tvm qat state 1"
    assert state["step"] == 1


def test_tuning_logs_without_a_version() -> None:
    logs = sorted(path.parent for path in tuning_logs_dir().glob("*/*/provenance.json"))
    assert logs
    for log in logs:
        assert read_sessions(log)
        assert is_emulated(log) == log.parent.name.startswith("rpi")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.safetensors", "integer model"),
        ("archive.tar.gz", "deploy archive"),
        ("bench.json", "benchmark"),
        ("evaluation.json", "evaluation"),
        ("evaluation.state", "evaluation state"),
        (str(tuning_logs_dir() / "rpi4/demo_256x256"), "tuning log"),
    ],
)
def test_info(name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "-q", "--json", str(FORMATS / name)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert main(["info", "-q", str(FORMATS / name)]) == 0
    assert kind in capsys.readouterr().out


def test_newer_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / "database_tuning_record.json").write_text("")
    (log / "provenance.json").write_text('{"format_version": 2, "sessions": []}')
    assert main(["info", str(log)]) == 2
    assert "has format version 2" in capsys.readouterr().err


def test_damaged_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (FORMATS / "archive.tar.gz").read_bytes()
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(whole[: len(whole) // 2])
    assert main(["info", str(broken)]) == 2
    assert "cannot read the archive" in capsys.readouterr().err
