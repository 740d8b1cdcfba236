"""What a machine needs to quantize, compile and run models, checked: ``iseg-tvm doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from iseg_tvm.board.identity import core_names, machine_name
from iseg_tvm.board.sensors import read_sensors
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import read_host_cpu
from iseg_tvm.targets import NATIVE, TargetSpec, load_target

if TYPE_CHECKING:
    from iseg_tvm.network import Address

Status = Literal["OK", "WARN", "FAIL"]

_PYTHONS = ((3, 10), (3, 13))
_BASE = ("apache-tvm", "apache-tvm-ffi", "numpy", "pillow", "rich", "shtab")
_HOST = ("torch", "torchvision", "timm", "safetensors", "pyyaml", "xgboost", "cloudpickle",
         "psutil", "tornado", "ziglang")  # fmt: skip
# Instructions that decide which kernels run, by Linux' names.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_vbmi", "avx_vnni", "amx_int8",
             "asimd", "asimddp", "i8mm")  # fmt: skip
_MEGABYTE = 10**6
_MEMORY, _DISK = (500, 2000), (200, 2000)  # megabytes: below the first FAIL, the second WARN


@dataclass(frozen=True)
class Finding:
    """One line of the result.

    Attributes
    ----------
    subject : what was looked at
    status : ``OK``, ``WARN`` (part of iseg-tvm does not work here), ``FAIL``
    found : what was found
    remedy : what to do; empty if nothing
    """

    subject: str
    status: Status
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """JSON values."""
        return asdict(self)


def examine(tracker: Address | None = None) -> list[Finding]:
    """Look at everything; a tracker only if one is given."""
    findings = [_python(), *_packages(), _runtime(), _compiler(), _machine(), _cpu()]
    findings += [*_linkers(), _memory(), _disk(), *_throttling()]
    if tracker is not None:
        findings.append(_tracker(tracker))
    return findings


def _python() -> Finding:
    low, high = (".".join(map(str, version)) for version in _PYTHONS)
    here = platform.python_version()
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        return Finding("Python", "OK", here)
    return Finding("Python", "WARN", here, f"tested are Python {low} to {high}")


def _packages() -> Iterator[Finding]:
    """What runs models, each by itself as it is pinned; what makes them, in one line."""
    wanted = _required_versions()
    for name in _BASE:
        yield _package(name, wanted.get(name, ""))
    missing = [name for name in _HOST if _version(name) is None]
    if missing:
        yield Finding(
            "quantizing, compiling", "WARN", f"not installed: {' '.join(missing)}",
            "pip install 'iseg-tvm[host]' (a board does not need it)",
        )  # fmt: skip
        return
    other = [
        f"{name} {_version(name)} instead of {wanted[name]}"
        for name in _HOST
        if wanted.get(name) and _release(_version(name)) != wanted[name]
    ]
    found = ", ".join(other) or " ".join(f"{name} {_version(name)}" for name in _HOST[:3])
    remedy = "pip install 'iseg-tvm[host]' in a new environment" if other else ""
    yield Finding("quantizing, compiling", "WARN" if other else "OK", found, remedy)


def _package(name: str, wanted: str) -> Finding:
    found = _version(name)
    remedy = f"pip install '{name}=={wanted}'" if wanted else f"pip install {name}"
    if found is None:
        return Finding(name, "FAIL", "not installed", remedy)
    if wanted and _release(found) != wanted:
        # Other releases of TVM's two packages end in wrong names or segmentation faults.
        return Finding(name, "FAIL", f"{found}, made for {wanted}", remedy)
    return Finding(name, "OK", f"{found}, as pinned" if wanted else found)


def _required_versions() -> dict[str, str]:
    """Versions that iseg-tvm pins with ``==``, by package; empty if it is not installed."""
    try:
        lines = importlib.metadata.requires("iseg-tvm") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    pins = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines)
    return {pin[1].lower(): pin[2] for pin in pins if pin is not None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str | None) -> str:
    """Return a version without its local part (``2.13.0+cpu``)."""
    return (version or "").partition("+")[0]


def _runtime() -> Finding:
    from iseg_tvm.runtime import tvm_runtime

    try:
        tvm_runtime()
    except IsegError as error:
        return Finding("TVM's runtime", "FAIL", error.message, error.hint)
    return Finding("TVM's runtime", "OK", "loads")


def _compiler() -> Finding:
    package = importlib.util.find_spec("tvm")
    places = package.submodule_search_locations if package is not None else None
    if places and (Path(places[0]) / "lib/libtvm_compiler.so").is_file():
        return Finding("TVM's compiler", "OK", "installed")
    return Finding(
        "TVM's compiler", "WARN", "libtvm_compiler.so is missing: models run here, none compiles",
        "compile on another machine, or install apache-tvm again",
    )  # fmt: skip


def _machine() -> Finding:
    cpu = read_host_cpu()
    return Finding("machine", "OK", f"{machine_name(cpu)}, {cpu.num_cores} usable CPUs")


def _cpu() -> Finding:
    cpu = read_host_cpu()
    features = " ".join(name for name in _FEATURES if name in cpu.features)
    cores = f", {core_names(cpu.parts)}" if cpu.parts else ""
    try:
        target = load_target(NATIVE)
    except IsegError as error:
        return Finding("CPU", "WARN", f"{cpu.arch}{cores}: {error.message}", error.hint)
    return Finding("CPU", "OK", f"{cpu.arch}{cores}: {features}; native is {target.name}")


def _linkers() -> Iterator[Finding]:
    """Linkers for both architectures, and what other tools there are."""
    for target in ("x86-generic", "aarch64"):
        yield _linker(load_target(target))
    names = ("aarch64-linux-gnu-gcc", "clang", "ld.lld", "qemu-aarch64")
    tools = [name for name in names if shutil.which(name)]
    if importlib.util.find_spec("ziglang") is not None:
        tools.append(f"ziglang {_version('ziglang')}")
    yield Finding("ARM tools", "OK", ", ".join(tools) or "none (only compiling for ARM needs one)")


def _linker(target: TargetSpec) -> Finding:
    """Whether libraries for an architecture can be linked here; the linker is run."""
    from iseg_tvm.linking import link_command

    subject = f"linker for {target.arch}"
    try:
        command = link_command(target)
        zig = "ziglang" in command
        version = [*command[:3], "version"] if zig else [command[0], "--version"]
        subprocess.run(version, capture_output=True, check=True, timeout=60)
    except IsegError as error:
        return Finding(subject, "WARN", error.message, error.hint)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(subject, "WARN", f"{command[0]} does not run: {error}", "install it again")
    return Finding(subject, "OK", "ziglang" if zig else command[0])


def _memory() -> Finding:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024 // _MEGABYTE
            return _amount("free memory", free, _MEMORY, "close programs, or add swap space")
    return Finding("free memory", "WARN", "not readable here")


def _disk() -> Finding:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free // _MEGABYTE
    remedy = f"free some space in {folder}, or point TMPDIR elsewhere"
    return _amount("free disk", free, _DISK, remedy)


def _amount(subject: str, megabytes: int, limits: tuple[int, int], remedy: str) -> Finding:
    found = f"{megabytes / 1000:.1f} GB"
    if megabytes >= limits[1]:
        return Finding(subject, "OK", found)
    return Finding(subject, "FAIL" if megabytes < limits[0] else "WARN", found, remedy)


def _throttling() -> Iterator[Finding]:
    """Of a Raspberry Pi; nothing where it cannot be read."""
    reasons = read_sensors().throttled
    if reasons:
        remedy = "use the official power supply and a cooler; measurements are too slow"
        yield Finding("throttling", "WARN", ", ".join(reasons), remedy)


def _tracker(address: Address) -> Finding:
    """Whether a tracker answers, and what is registered there."""
    from iseg_tvm.remote.tracker import TrackerClient

    subject = f"tracker {address}"
    try:
        with TrackerClient(address) as client:
            boards = client.boards()
    except IsegError as error:
        return Finding(subject, "FAIL", error.message, error.hint)
    if not boards:
        remedy = "start iseg-tvm rpc-server on a board (docs/boards.md)"
        return Finding(subject, "WARN", "answers, no board is registered", remedy)
    listed = ", ".join(f"{count} x {key}" for key, count in sorted(boards.items()))
    return Finding(subject, "OK", listed)
