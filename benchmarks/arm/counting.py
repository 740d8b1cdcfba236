"""Instructions that an emulated CPU executes for one call, counted by a QEMU plugin.

No clock and no cache is in it, so counts repeat, but for threads of a runtime that
spin while they wait: those only add, and the least of several is taken. Debian's dynamic
``qemu-user`` loads plugins; the static one does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from iseg_tvm.errors import IsegError
from tests.arm.boards import BOARDS, make_sysroot
from tests.arm.userspace import REPOSITORY, UserSpace

SOURCE = Path(__file__).with_name("count_instructions.c")
PROCESSES = 2
# Equal means for all: the peers would use SVE and SME, which our target does not ask for.
QEMU_CPU = {"max": "max,sve=off,sme=off"}
GUEST = Path(__file__).with_name("guest.py")


@dataclass(frozen=True)
class Counts:
    """Instructions of one call; the classes after ``all`` leave out plain integer arithmetic."""

    all: int
    multiply: int
    simd: int
    memory: int
    branch: int

    def to_dict(self) -> dict[str, int]:
        """As a JSON object."""
        return asdict(self)


def build_plugin(folder: Path) -> Path:
    """Compile the plugin.

    Raises
    ------
    IsegError
        No C compiler, or it failed.
    """
    library = folder / "count_instructions.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise IsegError("no C compiler for the QEMU plugin", "install gcc")
    command = [compiler, "-O2", "-fPIC", "-shared", "-o", str(library), str(SOURCE)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise IsegError(f"compiling the QEMU plugin failed: {process.stderr.strip()}")
    return library


def count(
    space: UserSpace, plugin: Path, cpu: str, engine: str, job: Path, site: Sequence[Path] = ()
) -> Counts:
    """The least of :data:`PROCESSES` processes: waiting threads of a runtime only ever add."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        runs = [
            pool.submit(count_once, space, plugin, cpu, engine, job, site) for _ in range(PROCESSES)
        ]
    found = [run.result() for run in runs]
    return min(found, key=lambda counts: counts.all)


def count_once(
    space: UserSpace, plugin: Path, cpu: str, engine: str, job: Path, site: Sequence[Path] = ()
) -> Counts:
    """Instructions of one call of an engine on an emulated CPU.

    Parameters
    ----------
    cpu : QEMU's name of a CPU of ``tests.arm.boards``
    engine, job : as ``guest.py`` takes them
    site : more folders of Python packages, before the board's own

    Raises
    ------
    IsegError
        The guest failed.
    """
    board = next(board for board in BOARDS if board.cpu == cpu)
    with tempfile.TemporaryDirectory(prefix="iseg-count-") as name:
        sysroot = make_sysroot(space, board, Path(name) / "sysroot")
        result = Path(name) / "counts"
        path = ":".join(map(str, (REPOSITORY, *site, space.site)))
        environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
            "TVM_NUM_THREADS": "1",
        }
        command = [*space.qemu, "-cpu", QEMU_CPU.get(cpu, cpu), "-plugin", f"{plugin},out={result}"]
        command += ["-L", str(sysroot), str(space.python), str(GUEST)]
        process = subprocess.run(
            [*command, engine, str(job)], env=environment, capture_output=True,
            text=True, check=False, timeout=600,
        )  # fmt: skip
        lines = result.read_text().splitlines() if result.is_file() else []
    if process.returncode or not lines:
        words = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise IsegError(f"{engine} on {cpu} failed: {words[0]}")
    windows = [[int(word) for word in line.split()[1:]] for line in lines]
    half = len(windows) // 2
    empty, called = min(windows[:half]), min(windows[half:])
    return Counts(*(b - a for a, b in zip(empty, called, strict=True)))
