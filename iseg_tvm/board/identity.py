"""What a board says about itself: CPU, system and versions, read on the board."""

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import iseg_tvm
from iseg_tvm.host_cpu import HostCpu, read_host_cpu

_DEVICE_TREE = Path("/proc/device-tree/model")
_CPUINFO = Path("/proc/cpuinfo")
# Arm's part numbers, as /proc/cpuinfo shows them (implementer 0x41).
_CORES = {
    "0x41:0xd03": "Cortex-A53",
    "0x41:0xd05": "Cortex-A55",
    "0x41:0xd07": "Cortex-A57",
    "0x41:0xd08": "Cortex-A72",
    "0x41:0xd0a": "Cortex-A75",
    "0x41:0xd0b": "Cortex-A76",
    "0x41:0xd0c": "Neoverse-N1",
    "0x41:0xd40": "Neoverse-V1",
    "0x41:0xd49": "Neoverse-N2",
}


_SETS = ("features", "parts", "refused")
"""Of a CPU's fields, those that are sets: sorted lists in JSON."""


@dataclass(frozen=True)
class BoardIdentity:
    """One machine that runs models.

    Parameters
    ----------
    name : str
        Its model, as the firmware or the CPU says it: ``Raspberry Pi 4 Model B Rev 1.4``.
    cpu : HostCpu
        Architecture, features, parts and number of usable CPUs.
    system : str
        Kernel and its version.
    versions : dict of str to str
        Of Python, iseg-tvm, apache-tvm, apache-tvm-ffi and numpy.
    """

    name: str
    cpu: HostCpu
    system: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as JSON values."""
        values = asdict(self)
        values["cpu"] |= {name: sorted(values["cpu"][name]) for name in _SETS}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BoardIdentity":
        """Rebuild an identity from `to_dict`'s values, or from an older version's."""
        cpu = values["cpu"]
        sets = {name: frozenset(cpu.get(name, ())) for name in _SETS}
        return cls(**{**values, "cpu": HostCpu(**{**cpu, **sets})})


def read_identity() -> BoardIdentity:
    """Return this machine's identity."""
    cpu = read_host_cpu()
    packages = ("apache-tvm", "apache-tvm-ffi", "numpy")
    versions = {"python": platform.python_version(), "iseg-tvm": iseg_tvm.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    system = f"{platform.system()} {platform.release()}"
    return BoardIdentity(machine_name(cpu), cpu, system, versions)


def core_names(parts: frozenset[str]) -> str:
    """Return ARM part ids as names people know: ``Cortex-A72``."""
    return ", ".join(_CORES.get(part, part) for part in sorted(parts))


def machine_name(cpu: HostCpu) -> str:
    """Return the board's model, else the CPU's."""
    if _DEVICE_TREE.is_file():
        return _DEVICE_TREE.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
    if cpu.parts:
        return f"{cpu.num_cores} x {core_names(cpu.parts)}"
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return cpu.arch
