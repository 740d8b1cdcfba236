"""The comparison's own machinery: turns, checks, results. The other runtimes are not needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import models, peers, results, rounds
from benchmarks.engines import ENGINES, OURS, find_engines
from benchmarks.export import INTEGER_FORM, ORIGINAL_HEAD
from iseg_tvm.artifact import save_model
from iseg_tvm.errors import IsegError
from iseg_tvm.runtime import load
from iseg_tvm.targets import load_target
from tests.helpers import random_image, random_quantized_model, tiny_config


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quantized model's file, and a cache folder that holds its bundle."""
    cache = tmp_path_factory.mktemp("cache")
    path = cache / "small.safetensors"
    save_model(random_quantized_model(tiny_config()), path)
    models.bundle(str(path), load_target("native"), cache)
    return path, cache


def test_our_library_alone(small: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    path, cache = small
    output = cache / "peers.json"
    arguments = ["--models", str(path), "--forms", INTEGER_FORM, "--threads", "1", "--rounds", "2"]
    arguments += ["--cache", str(cache), "--output", str(output)]
    assert peers.main(arguments) == 0
    assert peers.main(arguments) == 0
    printed = capsys.readouterr().out
    assert OURS in printed
    values = json.loads(output.read_text())
    assert len(values["slices"]) == 2
    for part in values["slices"]:
        assert list(part["engines"]) == [OURS]
        figures = part["engines"][OURS]
        assert len(figures["turns_ms"]) == 2
        assert all(ms > 0 for turn in figures["turns_ms"] for ms in turn)
        # numpy and TVM's runtime take 60 MB; torch or TVM's compiler would take 200 more.
        assert 10e6 < figures["peak_memory_bytes"] < 150e6
        assert part["foreign_cores"] >= 0
        assert part["provenance"]["git_commit"]
    (row,) = results.rows(values)
    assert (row.rounds, row.ratio, row.agreement) == (4, 1.0, None)
    assert peers.main([*arguments, "--report"]) == 0


def test_worker_runs_the_bundle(small: tuple[Path, Path], tmp_path: Path) -> None:
    path, cache = small
    target = load_target("native")
    given = peers.prepare(find_engines([OURS])[0], str(path), INTEGER_FORM, 1, target, cache)
    segmenter = load(given.path, 1)
    image = tmp_path / "image.npy"
    np.save(image, random_image(*segmenter.manifest.image_size))
    worker = rounds.Worker(replace(given, image=image), tmp_path)
    try:
        np.testing.assert_array_equal(worker.classes, segmenter.run(np.load(image)))
        assert len(worker.turn(3)) == 3
        assert worker.cpu_s() > 0
        assert rounds.check_agreement(worker, worker.classes) == 1
        with pytest.raises(IsegError, match="agrees with the float model on 0.0%"):
            rounds.check_agreement(worker, worker.classes + 1)
    finally:
        worker.close()


def test_a_worker_that_cannot_load(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    given = rounds.Input(find_engines([OURS])[0], tmp_path / "none", tmp_path / "none.npy", 1)
    with pytest.raises(IsegError, match="process ended with status 1"):
        rounds.Worker(given, tmp_path)
    assert "no bundle folder" in capfd.readouterr().err


def slice_of(form: str, threads: int, **times: float) -> dict[str, Any]:
    """Three turns an engine; the middle one is the time given."""
    engines = {
        name.replace("_", " "): {
            "turns_ms": [[t * 1.5, t * 1.5], [t, t * 0.9, t * 7], [t * 0.5]],
            "agreement": 1.0,
            "peak_memory_bytes": None,
        }
        for name, t in times.items()
    }
    return {"model": "seg-t", "form": form, "threads": threads, "engines": engines}


def test_ratios() -> None:
    ours = {"iseg-tvm int8": 40.0}
    peer = {"OpenVINO int8 + f32": 100.0, "OpenVINO bf16": 80.0, "ONNX Runtime fp32": 200.0}
    original = {"OpenVINO int8 + bf16": 120.0}
    values = {
        "slices": [slice_of(INTEGER_FORM, 1, **ours, **peer)] * 2
        + [slice_of(ORIGINAL_HEAD, 1, **ours, **original)]
    }
    table = {(row.key[1], row.engine): row for row in results.rows(values)}
    assert table[INTEGER_FORM, "OpenVINO bf16"].median_ms == 80
    assert table[INTEGER_FORM, "OpenVINO bf16"].rounds == 6
    lines = {line.what: line for line in results.comparisons(values)}
    assert [(line.peer, line.ratio, line.wanted) for line in lines.values()] == [
        ("OpenVINO bf16", 2.0, 1.5),
        ("OpenVINO int8 + f32", 2.5, 1.8),
        ("OpenVINO int8 + bf16", 3.0, 2.5),
        ("ONNX Runtime fp32", 5.0, 3.3),
    ]


def test_ratio_is_of_the_same_rounds() -> None:
    """A machine twice as slow in half of the rounds changes medians, not ratios."""
    part = slice_of(INTEGER_FORM, 1, **{"iseg-tvm int8": 10.0, "OpenVINO bf16": 30.0})
    for values in part["engines"].values():
        values["turns_ms"] = [[2 * t for t in turn] for turn in values["turns_ms"]] * 3
    assert [row.ratio for row in results.rows({"slices": [part]})] == [1, 3]


def test_results_of_other_sources_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"format": results.FORMAT, "sources": "old", "slices": []}))
    with pytest.raises(IsegError, match="other sources"):
        results.read_results(path, "new")
    path.write_text("[1]")
    with pytest.raises(IsegError, match="no result file"):
        results.read_results(path, "new")


def test_engines_by_word() -> None:
    assert [e.name for e in find_engines(["bf16"])] == [
        OURS,
        "OpenVINO bf16",
        "OpenVINO int8 + bf16",
    ]
    assert len(find_engines(None)) == len(ENGINES)
    with pytest.raises(IsegError, match="no engine is named like 'tensorrt'"):
        find_engines(["tensorrt"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "seg-x"], "unknown model 'seg-x'"),
        (["--engines", "tensorrt"], "no engine is named"),
        (["--threads", "4096"], "may use"),
        (["--report"], "holds no measurements"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fixed = ["--cache", str(tmp_path), "--output", str(tmp_path / "r.json")]
    assert peers.main([*arguments, *fixed]) == 2
    assert message in capsys.readouterr().err
