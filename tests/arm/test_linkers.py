"""Libraries linked by each linker that may be installed run on an emulated Raspberry Pi 4."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.build import compile_bundle
from iseg_tvm.linking import link_command
from iseg_tvm.reference_model import run_reference
from iseg_tvm.targets import load_target
from tests.arm.boards import BOARDS, make_sysroot, run_guest
from tests.arm.jobs import Job
from tests.arm.userspace import PreparationError, UserSpace, host_tools
from tests.helpers import random_image

PACKAGES = ["gcc-aarch64-linux-gnu", "clang", "lld"]
TOOLS = {
    "aarch64-linux-gnu-gcc": ["aarch64-linux-gnu-gcc"],
    "clang": ["clang", "ld.lld"],
    sys.executable: [],  # ziglang
}
"""First word of the command that links, and the only tools that are there."""


@pytest.fixture(scope="module")
def tools() -> Path:
    """Debian's cross compilers, unpacked into the cache."""
    try:
        return host_tools("cross-linkers-1", PACKAGES)
    except PreparationError as error:
        reason = f"no cross compilers: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def test_every_linker(
    user_space: UserSpace, tools: Path, small_model: QuantizedModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    target, board = load_target("rpi4"), next(b for b in BOARDS if "rpi4" in b.targets)
    photo = random_image(*small_model.input_size, 0)
    expected = run_reference(small_model, photo)
    libraries = [*tools.glob("usr/lib/*-linux-gnu"), *tools.glob("usr/lib/llvm-*/lib")]
    job = Job(tmp_path)
    for number, (first, names) in enumerate(TOOLS.items()):
        binaries = tmp_path / f"bin{number}"
        binaries.mkdir()
        for name in names:
            (binaries / name).symlink_to(tools / "usr/bin" / name)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(binaries))
            patch.setenv("LD_LIBRARY_PATH", ":".join(map(str, libraries)) if names else "")
            assert link_command(target)[0] == first
            bundle = compile_bundle(small_model, target, tmp_path / f"bundle{number}")
        content = (bundle.path / "model.so").read_bytes()
        assert re.findall(rb"GLIBC_[0-9.]+|lib\w+\.so\.\d", content) == []
        job.add_bundle(first, bundle.path, photo[None], expected[None])
    sysroot = make_sysroot(user_space, board, tmp_path / "sysroot")
    report = run_guest(user_space, board, sysroot, job.write())
    assert report["bundles"] == dict.fromkeys(TOOLS, "")
