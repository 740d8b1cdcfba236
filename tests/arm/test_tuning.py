"""MetaSchedule over RPC: two emulated Raspberry Pi 4 at once, kill -9, a board that vanishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from iseg_tvm.artifact import QuantizedModel, load_model, save_model
from iseg_tvm.network import Address
from iseg_tvm.schedules import load_schedules
from iseg_tvm.targets import load_target
from iseg_tvm.tuning.tasks import extract_tasks
from iseg_tvm.tuning_files import PROVENANCE
from tests.arm.boards import BOARDS, make_sysroot
from tests.arm.test_rpc import board_server
from tests.arm.userspace import UserSpace
from tests.rpc.services import service, wait_for_board
from tests.tuning.test_killed import decisions, records

A53, A72 = BOARDS[0], BOARDS[1]
SECONDS = 240.0
KERNELS = ("linear_gelu", "attention")


@pytest.fixture(scope="module")
def model_file(small_model: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(small_model, tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def tracker() -> Iterator[Address]:
    with service("iseg_tvm.rpc_tracker") as address:
        yield address


@pytest.fixture
def boards(
    user_space: UserSpace, tracker: Address, tmp_path: Path
) -> Iterator[list[ExitStack]]:
    """Two Cortex-A72 at the tracker; closing one's stack is pulling its plug."""
    sysroot = make_sysroot(user_space, A72, tmp_path / A72.cpu)
    stacks = [ExitStack(), ExitStack()]
    try:
        for stack in stacks:
            stack.enter_context(board_server(user_space, A72, sysroot, tracker))
        wait_for_board(tracker, A72.cpu, count=2)
        yield stacks
    finally:
        for stack in stacks:
            stack.close()


def start(model: Path, folder: Path, tracker: Address, *flags: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "iseg_tvm.tune", "--target", "rpi4", "--model", str(model)),
        *("--tracker", str(tracker), "--key", A72.cpu, "--emulated", "-o", str(folder)),
        *(argument for kernel in KERNELS for argument in ("--only", kernel)),
        *flags,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_records(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    end = time.monotonic() + SECONDS
    while len(records(folder)) < count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def test_two_boards_kill_resume_and_a_lost_board(
    model_file: Path, boards: list[ExitStack], tracker: Address, tmp_path: Path
) -> None:
    target = load_target("rpi4")
    folder = tmp_path / "logs" / target.name / "small"
    first = start(model_file, folder, tracker, "--trials", "10000")
    wait_for_records(first, folder, 6)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = records(folder)
    assert len(before) >= 6

    second = start(model_file, folder, tracker, "--trials", "24", "--resume")
    wait_for_records(second, folder, len(before) + 4)
    boards[1].close()
    _, progress = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, progress
    after = records(folder)
    assert after[: len(before)] == before
    assert len(after) >= len(before) + 8
    assert len({decisions(line) for line in after}) == len(after)

    sessions = json.loads((folder / PROVENANCE).read_text())["sessions"]
    assert [session["emulated"] for session in sessions] == [True, True]
    names = [board["name"] for session in sessions for board in session["measured_on"]]
    assert len(names) == 4
    assert all(name.endswith("x Cortex-A72") for name in names)
    schedules = load_schedules(target, tmp_path / "logs")
    for task in extract_tasks(load_model(model_file), target):
        known = any(kernel in task.name for kernel in KERNELS)
        assert bool(schedules(task.operator, task.context)) == known


def test_wrong_cpu_is_found_before_measuring(
    user_space: UserSpace, model_file: Path, tracker: Address, tmp_path: Path
) -> None:
    """A Cortex-A53 registered as if it were the Raspberry Pi 4."""
    sysroot = make_sysroot(user_space, A53, tmp_path / "sysroot")
    with board_server(user_space, A53, sysroot, tracker):
        wait_for_board(tracker, A53.cpu)
        process = start(model_file, tmp_path / "log", tracker, "--key", A53.cpu)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, errors
    assert "has Cortex-A53, and the target rpi4 is Cortex-A72" in errors
    assert records(tmp_path / "log") == []
