"""On every emulated CPU, kernels and whole models give the reference's bits."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.images import load_photo, photo_to_array
from iseg_tvm.reference_model import run_reference
from tests.arm.boards import BOARDS, Board, make_sysroot, run_guest
from tests.arm.conftest import DEMO
from tests.arm.jobs import Job, KernelLibrary
from tests.arm.kernel_cases import FAMILIES
from tests.arm.userspace import UserSpace
from tests.helpers import random_image

THREADS = (1, None)  # one, and all CPUs
Examples = tuple[np.ndarray, np.ndarray]  # images (N, H, W, 3), class maps (N, H, W)


@pytest.fixture(scope="module")
def images(small_model: QuantizedModel) -> Examples:
    """Images of the small model and their class maps."""
    photos = [random_image(*small_model.input_size, seed) for seed in range(3)]
    return np.stack(photos), np.stack([run_reference(small_model, photo) for photo in photos])


@pytest.fixture(scope="module")
def demo_photo(demo_model: QuantizedModel) -> Examples:
    """The demo's photograph and its class map."""
    photo = photo_to_array(load_photo(DEMO / "photo.jpg"), demo_model.input_size)
    class_map = run_reference(demo_model, photo)
    assert len(np.unique(class_map)) > 1
    return photo[None], class_map[None]


@pytest.fixture(scope="module", params=BOARDS, ids=lambda board: board.cpu)
def emulated(
    request: pytest.FixtureRequest,
    user_space: UserSpace,
    kernel_library: Callable[[str], KernelLibrary],
    small_bundle: Callable[[str], Path],
    demo_bundle: Callable[[str], Path],
    images: Examples,
    demo_photo: Examples,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Board, dict[str, Any]]:
    """A board, and what it reported of the one process it ran."""
    board: Board = request.param
    folder = tmp_path_factory.mktemp(board.cpu)
    job = Job(folder)
    for target in board.targets:
        job.add_kernels(kernel_library(target))
        for threads in THREADS:
            name = f"{target} {threads}"
            job.add_bundle(name, small_bundle(target), *images, num_threads=threads)
    job.add_bundle("demo", demo_bundle(board.targets[0]), *demo_photo, num_threads=None)
    if "asimddp" not in board.features:
        job.add_bundle("foreign", small_bundle("rpi5"), *images)
    sysroot = make_sysroot(user_space, board, folder / "sysroot")
    return board, run_guest(user_space, board, sysroot, job.write())


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels(emulated: tuple[Board, dict[str, Any]], family: str) -> None:
    board, report = emulated
    for target in board.targets:
        start = f"{target} {family}_"
        results = {name: r for name, r in report["kernels"].items() if name.startswith(start)}
        assert results
        assert {name: wrong for name, wrong in results.items() if wrong} == {}


def test_whole_model(emulated: tuple[Board, dict[str, Any]]) -> None:
    board, report = emulated
    names = [f"{target} {threads}" for target in board.targets for threads in THREADS]
    assert {name: report["bundles"][name] for name in names} == dict.fromkeys(names, "")
    assert not report["compiler_loaded"]


def test_demo_model(emulated: tuple[Board, dict[str, Any]]) -> None:
    assert emulated[1]["bundles"]["demo"] == ""


def test_bundle_for_a_later_cpu_is_refused(emulated: tuple[Board, dict[str, Any]]) -> None:
    board, report = emulated
    if "asimddp" in board.features:
        assert "foreign" not in report["bundles"]
        return
    refusal = report["bundles"]["foreign"]
    assert refusal.startswith("refused: the bundle ")
    assert "needs CPU features this machine lacks: asimddp" in refusal


def test_emulated_cpu_has_the_features_its_cpuinfo_says(
    emulated: tuple[Board, dict[str, Any]],
) -> None:
    board, report = emulated
    decisive = {"fp", "asimd", "crc32", "atomics", "asimdhp", "asimdrdm", "asimddp", "i8mm"}
    assert set(report["features"]) & decisive == set(board.features.split()) & decisive


def test_the_refusal_is_needed(
    user_space: UserSpace, kernel_library: Callable[[str], KernelLibrary], tmp_path: Path
) -> None:
    """Code for the Cortex-A76 kills a process on the Cortex-A72: the emulator tells them apart."""
    board = next(board for board in BOARDS if board.cpu == "cortex-a72")
    job = Job(tmp_path)
    job.add_kernels(kernel_library("rpi5"))
    sysroot = make_sysroot(user_space, board, tmp_path / "sysroot")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_guest(user_space, board, sysroot, job.write())
    assert caught.value.returncode == -signal.SIGILL
