"""An ARM user space without a board: Debian's Python, TVM's runtime, and QEMU to run them.

``prepare()`` fills a folder of the user's cache once, without root and without touching the host:
packages are downloaded by apt with a configuration of its own, and only unpacked. Where they come
from is the host's own apt and pip configuration. ``python -m tests.arm.userspace`` prepares it and
prints where it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from iseg_tvm.files import atomic_dir

REPOSITORY = Path(__file__).resolve().parents[2]
DEBIAN_PACKAGES = ["python3", "libstdc++6", "zlib1g"]
BOARD_REQUIREMENTS = ("apache-tvm", "apache-tvm-ffi", "numpy")
PLATFORMS = ["manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
RECIPE = 1  # counted up when the content of a prepared folder changes
MARKER = "prepared.json"


class PreparationError(Exception):
    """The user space cannot be had here; the message says why."""


@dataclass(frozen=True)
class UserSpace:
    """A prepared user space.

    Attributes
    ----------
    root : the system: ``usr``, ``lib`` and so on
    site : Python packages of a board, without TVM's compiler
    python : the interpreter in ``root``
    qemu : command that runs a program; options, ``-L`` and the program follow
    """

    root: Path
    site: Path
    python: Path
    qemu: tuple[str, ...]


def prepare() -> UserSpace:
    """Return the user space of the cache folder, made first if need be.

    Raises
    ------
    PreparationError
        No apt, dpkg-deb or pip here, or a package cannot be had.
    """
    cache = cache_folder()
    recipe = json.dumps([RECIPE, DEBIAN_PACKAGES, _requirements(), PLATFORMS])
    folder = cache / f"arm64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (folder / MARKER).is_file():
        with atomic_dir(folder, marker=MARKER) as fresh:
            _fill(fresh)
            (fresh / MARKER).write_text(recipe, encoding="utf-8")
    emulator = shutil.which("qemu-aarch64")
    qemu = (emulator,) if emulator else _unpacked_qemu(cache / f"qemu-user-{RECIPE}")
    root = folder / "root"
    return UserSpace(root, folder / "site", _python(root), qemu)


def _fill(folder: Path) -> None:
    """Make ``root`` and ``site`` in an empty folder."""
    root = folder / "root"
    unpack(DEBIAN_PACKAGES, "arm64", root)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--target", str(folder / "site"), "--only-binary=:all:"]
    pip += ["--python-version", _python(root).name.removeprefix("python")]
    pip += [f"--platform={platform}" for platform in PLATFORMS]
    _run([*pip, *_requirements()])
    # A quarter of a gigabyte that a board never loads; without it no test can depend on it.
    for compiler in (folder / "site").glob("tvm/lib/libtvm_compiler*"):
        compiler.unlink()


def _unpacked_qemu(folder: Path) -> tuple[str, ...]:
    """Command of an unpacked QEMU, run by the C library it came with."""
    if not (folder / MARKER).is_file():
        with atomic_dir(folder, marker=MARKER) as fresh:
            unpack(["qemu-user"], _host_architecture(), fresh / "root")
            (fresh / MARKER).write_text("{}", encoding="utf-8")
    root = folder / "root"
    loader = next(p for p in root.rglob("ld-linux*.so.*") if not p.is_symlink())
    libraries = [str(p) for p in sorted(root.glob("**/lib/*-linux-gnu"))]
    emulator = root / "usr/bin/qemu-aarch64"
    return (str(loader), "--library-path", ":".join(libraries), str(emulator))


def host_tools(name: str, packages: list[str]) -> Path:
    """Root of the cache's folder ``name``, where packages for this machine are unpacked once.

    They run on its C library: only what is not installed is downloaded.

    Raises
    ------
    PreparationError
        No apt or dpkg-deb here, or a package cannot be had.
    """
    folder = cache_folder() / name
    if not (folder / "root").is_dir():
        with atomic_dir(folder, marker="root") as fresh:
            installed = Path("/var/lib/dpkg/status")
            unpack(packages, _host_architecture(), fresh / "root", installed)
    return folder / "root"


def cache_folder() -> Path:
    """Where all that is downloaded stays."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iseg-tvm"


def _host_architecture() -> str:
    return _run(["dpkg", "--print-architecture"]).strip()


def unpack(
    packages: list[str], architecture: str, root: Path, status: Path = Path(os.devnull)
) -> None:
    """Download Debian packages with all they depend on, and unpack them under ``root``.

    ``status`` is dpkg's file of packages that need not be downloaded; by default there are none.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PreparationError(f"{tool} is not installed (Debian or a derivative is needed)")
    with tempfile.TemporaryDirectory(prefix="iseg-apt-") as name:
        state = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "log"):
            (state / part).mkdir(parents=True)
        shutil.copyfile(status, state / "status")
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",  # its own user could not write into our folder
            "Acquire::Languages": "none",
            "Debug::NoLocking": "true",
            "Dir::State": name,
            "Dir::State::status": str(state / "status"),
            "Dir::Cache": str(state / "cache"),
            "Dir::Log": str(state / "log"),
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        _run([*apt, "update"])
        _run([*apt, "install", "--yes", "--download-only", *packages])
        root.mkdir()
        for archive in sorted((state / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(root)])


def _run(command: list[str]) -> str:
    """Standard output of a command; its last words if it fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PreparationError(f"{command[0]}: {error.strerror}") from error
    if process.returncode:
        words = [line for line in process.stderr.splitlines() if line.strip()][-1:]
        raise PreparationError(f"{' '.join(command[:4])} failed: {' '.join(words)}")
    return process.stdout


def _requirements() -> list[str]:
    """What a board installs, with the versions of ``pyproject.toml``."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)["project"]["dependencies"]
    return [r for r in listed if re.split(r"[=<>~!]", r)[0] in BOARD_REQUIREMENTS]


def _python(root: Path) -> Path:
    return root / "usr/bin" / (root / "usr/bin/python3").readlink().name


if __name__ == "__main__":
    print(prepare())
