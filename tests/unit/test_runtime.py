"""The runtime: results, refusals, threads, and what it must never import."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm import bundle as bundle_module
from iseg_tvm.bundle import MANIFEST_NAME, write_bundle
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import usable_cpus
from iseg_tvm.runtime import Segmenter, load
from iseg_tvm.targets import load_target
from tests.conftest import TOY_SIZE, toy_manifest


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (*TOY_SIZE, 3), dtype=np.uint8)


def test_run(toy_bundle: Path, image: np.ndarray) -> None:
    segmenter = load(toy_bundle)
    first = segmenter.run(image)
    np.testing.assert_array_equal(first, image.max(axis=2))
    assert first.dtype == np.uint8
    segmenter.run(np.zeros_like(image))
    np.testing.assert_array_equal(first, image.max(axis=2), err_msg="a result was overwritten")


def test_run_takes_views_and_leaves_them_alone(toy_bundle: Path, image: np.ndarray) -> None:
    flipped = image[:, ::-1]
    flipped.flags.writeable = False
    before = flipped.copy()
    np.testing.assert_array_equal(load(toy_bundle).run(flipped), before.max(axis=2))
    np.testing.assert_array_equal(flipped, before)


def test_run_timed(toy_bundle: Path, image: np.ndarray) -> None:
    class_map, times_ms = load(toy_bundle).run_timed(image, repeats=3)
    np.testing.assert_array_equal(class_map, image.max(axis=2))
    assert len(times_ms) == 3
    assert min(times_ms) > 0


def test_no_repeats(toy_bundle: Path, image: np.ndarray) -> None:
    with pytest.raises(IsegError, match="0 repeats"):
        load(toy_bundle).run_timed(image, repeats=0)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((6, 8, 3), np.uint8),
        np.zeros((8, 6), np.uint8),
        np.zeros((1, 8, 6, 3), np.uint8),
        np.zeros((8, 6, 3), np.float32),
        np.zeros((8, 6, 3), np.int8),
        [[0]],
    ],
    ids=lambda w: f"{getattr(w, 'dtype', 'list')}{np.shape(w)}",
)
def test_wrong_input(toy_bundle: Path, wrong: np.ndarray) -> None:
    with pytest.raises(IsegError, match=r"takes an RGB image of uint8 \(8, 6, 3\), not"):
        load(toy_bundle).run(wrong)


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_impossible_thread_count(toy_bundle: Path, count: int) -> None:
    with pytest.raises(IsegError, match="threads asked for"):
        load(toy_bundle, num_threads=count)


def test_library_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    bundle = write_bundle(tmp_path / "bundle", text, toy_manifest(load_target("native")))
    with pytest.raises(IsegError, match=r"model\.so does not load"):
        Segmenter(bundle)


def test_other_cpu_is_refused_before_the_library_is_loaded(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy_bundle / MANIFEST_NAME
    values = json.loads(path.read_text())
    values["target"]["features"].append("a_feature_no_cpu_has")
    path.write_text(json.dumps(values))

    def no_loading(*_: object) -> None:
        pytest.fail("the library was loaded")

    monkeypatch.setattr("iseg_tvm.runtime.Segmenter", no_loading)
    with pytest.raises(IsegError, match="lacks: a_feature_no_cpu_has"):
        load(toy_bundle)
    assert bundle_module.read_bundle(toy_bundle, runnable=False).path == toy_bundle


FRESH_PROCESS = """
import json, sys
import numpy as np
from iseg_tvm import runtime
segmenter = runtime.load(sys.argv[1], num_threads=int(sys.argv[2]))
class_map = segmenter.run(np.full(segmenter.manifest.input.shape, 1, np.uint8))
heavy = {"torch", "torchvision", "timm", "xgboost", "relay_ops", "tvm", "safetensors", "scipy"}
print(json.dumps({
    "heavy": sorted({name.split(".")[0] for name in sys.modules} & heavy),
    "threads": segmenter.num_threads,
    "values": sorted(set(class_map.ravel().tolist())),
}))
"""


@pytest.mark.parametrize("threads", sorted({1, len(usable_cpus())}))
def test_a_fresh_process_needs_numpy_and_the_tvm_runtime_alone(
    toy_bundle: Path, threads: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(toy_bundle), str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"heavy": [], "threads": threads, "values": [1]}


def test_torch_and_the_compiler_still_work_after_the_runtime(toy_bundle: Path) -> None:
    code = (
        "import sys; from iseg_tvm import runtime; runtime.load(sys.argv[1]);"
        "import torch, tvm; from tvm import relax; print(int(torch.ones(2).sum()), relax.__name__)"
    )
    command = [sys.executable, "-c", code, str(toy_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "tvm.relax"]
