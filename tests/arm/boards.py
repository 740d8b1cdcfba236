"""The boards that are emulated: QEMU's CPU model, what Linux says of the CPU, what runs there."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.arm.userspace import REPOSITORY, UserSpace

GUEST = Path(__file__).with_name("guest.py")
_V8_0 = "fp asimd evtstrm crc32 cpuid"
_V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"


@dataclass(frozen=True)
class Board:
    """An emulated board.

    Attributes
    ----------
    cpu : QEMU's name of the CPU
    part : its part number in ``/proc/cpuinfo``
    features : its features there
    targets : what is compiled for it
    """

    cpu: str
    part: str
    features: str
    targets: tuple[str, ...]


BOARDS = [
    Board("cortex-a53", "0xd03", _V8_0, ("rpi3", "aarch64")),
    Board("cortex-a72", "0xd08", _V8_0, ("rpi4",)),
    Board("cortex-a76", "0xd0b", f"{_V8_2} asimddp", ("rpi5",)),
    Board("max", "0x051", f"{_V8_2} asimddp i8mm", ("aarch64-i8mm",)),
]


def make_sysroot(space: UserSpace, board: Board, folder: Path) -> Path:
    """Return a folder that looks like the board's root: the shared system, its own cpuinfo."""
    folder.mkdir()
    for entry in space.root.iterdir():
        (folder / entry.name).symlink_to(entry)
    cores = [
        f"processor\t: {core}\nFeatures\t: {board.features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {board.part}\n"
        for core in range(4)
    ]
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text("\n".join(cores), encoding="utf-8")
    return folder


def python_command(space: UserSpace, board: Board, sysroot: Path) -> list[str]:
    """Return the command of the board's Python."""
    return [*space.qemu, "-cpu", board.cpu, "-L", str(sysroot), str(space.python)]


def python_environment(space: UserSpace) -> dict[str, str]:
    """Return the variables the board's Python needs."""
    return {
        "PYTHONPATH": f"{REPOSITORY}:{space.site}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def run_guest(space: UserSpace, board: Board, sysroot: Path, job: Path) -> dict[str, Any]:
    """Run ``guest.py`` on a job folder in one emulated process; return what it reports.

    Raises
    ------
    subprocess.CalledProcessError
        The guest died; ``returncode`` is minus the signal's number, or its exit status.
    """
    process = subprocess.run(
        [*python_command(space, board, sysroot), str(GUEST), str(job)],
        env=os.environ | python_environment(space), stdout=subprocess.PIPE, text=True,
        check=True, timeout=900,
    )  # fmt: skip
    return dict(json.loads(process.stdout))
