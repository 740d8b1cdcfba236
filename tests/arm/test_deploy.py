"""An archive and a C++ program on emulated boards: no project, no compiler, no Python for C++."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import ziglang

from iseg_tvm.cli.main import main
from tests.arm.boards import BOARDS, Board, make_sysroot, python_command, python_environment
from tests.arm.userspace import REPOSITORY, UserSpace

EXAMPLE = REPOSITORY / "examples/cpp"
FLOOR = (2, 28)


def versions_of_glibc(library: Path) -> set[tuple[int, int]]:
    """Versions of glibc's symbols that a library or program asks for."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    return {(int(major), int(minor)) for major, minor in found}


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


def test_cpp_example(
    user_space: UserSpace, board: tuple[Board, Path], demo_bundle: Callable[[str], Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Cross-compiled by CMake with pip's compiler, as the README says, for the board's packages."""
    site, program = user_space.site, tmp_path / "build/segment"
    libraries = [site / "tvm/lib/libtvm_runtime.so", site / "tvm_ffi/lib/libtvm_ffi.so"]
    triple = f"aarch64-linux-gnu.{FLOOR[0]}.{FLOOR[1]}"
    zig = Path(ziglang.__file__).with_name("zig")
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake = shutil.which("cmake", path=scripts)
    assert cmake is not None, "pip install cmake, which the extra 'test' names"
    configure = ["-S", str(EXAMPLE), "-B", str(program.parent), f"-DTVM_PACKAGES={site}"]
    configure += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_CXX_COMPILER={zig};c++;-target;{triple}"]
    subprocess.run([cmake, *configure], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(program.parent)], check=True, stdout=subprocess.DEVNULL)
    assert len((EXAMPLE / "segment.cpp").read_text().splitlines()) < 150
    for binary in (program, *libraries):
        assert versions_of_glibc(binary)
        assert max(versions_of_glibc(binary)) <= FLOOR, binary
    cpu, sysroot = board
    paths = ":".join(str(library.parent) for library in libraries)
    qemu = [*user_space.qemu, "-cpu", cpu.cpu, "-L", str(sysroot), "-E", f"LD_LIBRARY_PATH={paths}"]
    bundle = demo_bundle("rpi4")
    process = subprocess.run(
        [*qemu, str(program), str(bundle)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "65536 pixels: equal, bit for bit" in process.stdout
    refused = subprocess.run(
        [*qemu, str(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "error: cannot read" in refused.stderr
