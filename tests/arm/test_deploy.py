"""An archive on an emulated board, where nothing of the project is installed."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from iseg_tvm.cli.main import main
from tests.arm.boards import BOARDS, Board, make_sysroot, python_command, python_environment
from tests.arm.userspace import UserSpace


@pytest.fixture
def board(user_space: UserSpace, tmp_path: Path) -> tuple[Board, Path]:
    """A Raspberry Pi 4, and its root."""
    found = next(b for b in BOARDS if "rpi4" in b.targets)
    return found, make_sysroot(user_space, found, tmp_path / "sysroot")


def test_archive(
    user_space: UserSpace, board: tuple[Board, Path], demo_bundle: Callable[[str], Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    archive = tmp_path / "rpi4.tar.gz"
    assert main(["deploy", "--bundle", str(demo_bundle("rpi4")), "-o", str(archive), "-q"]) == 0
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    environment = os.environ | python_environment(user_space) | {"PYTHONPATH": str(user_space.site)}
    command = [*python_command(user_space, *board), "run.py", "--repeat", "1", "--threads", "1"]
    process = subprocess.run(
        command, cwd=tmp_path / "rpi4", env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "65536 pixels: equal, bit for bit" in process.stdout
