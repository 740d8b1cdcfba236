"""The CPU of the machine we run on, as Linux describes it in ``/proc/cpuinfo``."""

import ctypes
import functools
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from iseg_tvm.errors import IsegError

CPUINFO = Path("/proc/cpuinfo")

AMX = frozenset({"amx_tile", "amx_int8"})
AMX_PERMISSION = (158, 0x1023, 18)
"""System call by which a process on x86-64 Linux asks for AMX; 0 grants it (and costs no more).

``arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)``: Linux, Documentation/arch/x86/xstate.rst.
"""


@dataclass(frozen=True)
class HostCpu:
    """What decides whether compiled code can run here.

    Parameters
    ----------
    arch : str
        ``platform.machine()``: ``x86_64``, ``aarch64``.
    features : frozenset of str
        Flags that every core has, by Linux' names.
    parts : frozenset of str
        ARM only: ``implementer:part`` ids of the cores, such as ``0x41:0xd08`` (Cortex-A72).
    num_cores : int
        CPUs this process may use.
    refused : frozenset of str
        Features of the CPU that are none of `features`: the operating system refuses them.
    """

    arch: str
    features: frozenset[str]
    parts: frozenset[str] = frozenset()
    num_cores: int = 1
    refused: frozenset[str] = frozenset()


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs this process may use (affinity, containers)."""
    return sorted(os.sched_getaffinity(0))


def read_host_cpu() -> HostCpu:
    """Return this machine's CPU; its features are empty where ``/proc/cpuinfo`` is absent."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    features, parts = parse_cpuinfo(text)
    arch, cpus = platform.machine(), len(usable_cpus())
    refused = frozenset[str]() if arch != "x86_64" or has_amx_permission() else features & AMX
    return HostCpu(arch, features - refused, parts, cpus, refused)


@functools.cache
def has_amx_permission() -> bool:
    """Ask the kernel, for this process, for the AMX tiles: False where it has none to give."""
    try:
        return int(ctypes.CDLL(None).syscall(*AMX_PERMISSION)) == 0
    except (OSError, AttributeError):
        return False


def parse_cpuinfo(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the features all cores share, and the ARM part ids, from a cpuinfo text.

    Cores of one chip may differ (big.LITTLE), and a thread may land on any of them.
    """
    features: frozenset[str] | None = None
    parts: set[str] = set()
    implementer = ""
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in {"flags", "Features"}:
            here = frozenset(value.split())
            features = here if features is None else features & here
        elif key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            parts.add(f"{implementer}:{value}")
    return features or frozenset(), frozenset(parts)


def check_host(
    arch: str, features: Iterable[str], *, what: str, host: HostCpu | None = None
) -> None:
    """Refuse code this CPU cannot run, before it ends in an illegal instruction.

    Parameters
    ----------
    arch : str
        Architecture the code is for.
    features : iterable of str
        Features it needs.
    what : str
        What is refused, for the message: ``"the bundle out/demo"``.
    host : HostCpu, optional
        The machine; this one if left out.

    Raises
    ------
    IsegError
        Another architecture, or a missing feature.
    """
    host = host or read_host_cpu()
    remedy = "compile the model for this machine: iseg-tvm compile --target native"
    if arch != host.arch:
        raise IsegError(f"{what} is for {arch} CPUs, and this one is {host.arch}", remedy)
    missing = sorted(set(features) - host.features)
    if missing and set(missing) <= host.refused:
        raise IsegError(
            f"{what} needs {' '.join(missing)}, which the operating system refuses this process",
            remedy,
        )
    if missing:
        raise IsegError(
            f"{what} needs CPU features this machine lacks: {' '.join(missing)}", remedy
        )
