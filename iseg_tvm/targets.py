"""Targets: what a bundle is compiled for, read from ``targets/*.toml``.

One file is one target. This module knows neither TVM nor torch, except in `check_llvm_knows`,
which only the build calls.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import HostCpu, read_host_cpu
from iseg_tvm.target_file import read_target_toml

NATIVE = "native"

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class TargetSpec:
    """One target.

    Parameters
    ----------
    name : str
        Name of its file without the suffix.
    description : str
        One line for people.
    aliases : tuple of str
        Other names it may be asked for by.
    mtriple, mcpu, mattr : str, str, tuple of str
        LLVM's target triple, CPU name and feature switches (``"+avx512vnni"``).
    num_cores : int
        Cores the schedules are made for; a bundle runs on any number.
    arch : str
        ``x86_64`` or ``aarch64``, as ``platform.machine()`` says it on the target.
    features : frozenset of str
        CPU features the code needs, by their names in ``/proc/cpuinfo``.
    l1d_bytes, l2_bytes : int
        Data cache of one core, for blocking.
    isa : str
        The family of kernels to use, one of `iseg_tvm.target_file.ISAS`.
    rpc_key : str or None
        Default device key at a TVM RPC tracker.
    native_rank : int or None
        ``native`` takes the highest rank the host can run; None is never taken by rank.
    native_parts : tuple of str
        ``implementer:part`` ids of ARM cores for which ``native`` means this target.
    """

    name: str
    description: str
    aliases: tuple[str, ...]
    mtriple: str
    mcpu: str
    mattr: tuple[str, ...]
    num_cores: int
    arch: str
    features: frozenset[str]
    l1d_bytes: int
    l2_bytes: int
    isa: str
    rpc_key: str | None = None
    native_rank: int | None = None
    native_parts: tuple[str, ...] = ()

    def tvm_target_dict(self) -> dict[str, Any]:
        """Return the dictionary that ``tvm.target.Target`` takes."""
        return {
            "kind": "llvm",
            "mtriple": self.mtriple,
            "mcpu": self.mcpu,
            "mattr": list(self.mattr),
            "num-cores": self.num_cores,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the target as JSON values, for a bundle's manifest."""
        return asdict(self) | {
            "aliases": list(self.aliases),
            "mattr": list(self.mattr),
            "features": sorted(self.features),
            "native_parts": list(self.native_parts),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TargetSpec":
        """Rebuild a target from `to_dict`'s values.

        Raises
        ------
        TypeError
            A key is missing or unknown.
        """
        return cls(
            **{
                **values,
                "aliases": tuple(values["aliases"]),
                "mattr": tuple(values["mattr"]),
                "features": frozenset(values["features"]),
                "native_parts": tuple(values["native_parts"]),
            }
        )


def targets_dir() -> Path:
    """Return the folder of target files, of an installed wheel or of a checkout."""
    installed = _PACKAGE / "installed_targets"
    return installed if installed.is_dir() else _PACKAGE.parent / "targets"


def list_targets(directory: Path | None = None) -> list[TargetSpec]:
    """Return all targets, sorted by name.

    Raises
    ------
    IsegError
        A target file is wrong, or two targets share a name or an alias.
    """
    folder = directory or targets_dir()
    specs = [read_target_file(path) for path in sorted(folder.glob("*.toml"))]
    if not specs:
        raise IsegError(f"no target files in {folder}", "reinstall iseg-tvm")
    owners: dict[str, str] = {NATIVE: "the host"}
    for spec in specs:
        for name in (spec.name, *spec.aliases):
            if name in owners:
                raise IsegError(f"the name {name!r} means both {owners[name]} and {spec.name}")
            owners[name] = spec.name
    return specs


def load_target(
    name: str, *, host: HostCpu | None = None, directory: Path | None = None
) -> TargetSpec:
    """Return the target of that name or alias, or of a target file's path (``*.toml``).

    Parameters
    ----------
    name : str
        ``native`` stands for the best target this machine can run, with its number of cores.
    host : HostCpu, optional
        The machine ``native`` means; this one if left out.
    directory : Path, optional
        Folder of target files; the project's own if left out.

    Raises
    ------
    IsegError
        The name is unknown, or the host fits no target.
    """
    if name.endswith(".toml"):
        return read_target_file(Path(name))
    specs = list_targets(directory)
    if name == NATIVE:
        return _native(specs, host or read_host_cpu())
    for spec in specs:
        if name == spec.name or name in spec.aliases:
            return spec
    known = [NATIVE, *(spec.name for spec in specs)]
    names = known + [alias for spec in specs for alias in spec.aliases]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]}? " if close else ""
    raise IsegError(f"unknown target {name!r}", f"{guess}known targets: {', '.join(known)}")


def _native(specs: list[TargetSpec], host: HostCpu) -> TargetSpec:
    """Return the best target `host` can run: its very CPU, else the highest rank."""
    runs = [s for s in specs if s.arch == host.arch and s.features <= host.features]
    exact = [s for s in runs if host.parts and host.parts <= set(s.native_parts)]
    ranked = [s for s in runs if s.native_rank is not None]
    if not exact and not ranked:
        raise IsegError(
            f"no target fits this machine ({host.arch})",
            "name one with --target; `iseg-tvm info` lists them",
        )
    best = exact[0] if exact else max(ranked, key=lambda s: cast(int, s.native_rank))
    return replace(best, num_cores=host.num_cores)


def read_target_file(path: str | os.PathLike[str]) -> TargetSpec:
    """Read and check one target file.

    Raises
    ------
    IsegError
        The file is missing or is no TOML, or a key is unknown, missing or has a wrong value.
    """
    path = Path(path)
    content = read_target_toml(path)
    tvm, cpu = content["tvm"], content["cpu"]
    return TargetSpec(
        name=path.stem,
        description=content["description"],
        aliases=tuple(content.get("aliases", ())),
        mtriple=tvm["mtriple"],
        mcpu=tvm["mcpu"],
        mattr=tuple(tvm["mattr"]),
        num_cores=tvm["num-cores"],
        arch=cpu["arch"],
        features=frozenset(cpu["features"]),
        l1d_bytes=cpu["l1d-bytes"],
        l2_bytes=cpu["l2-bytes"],
        isa=content["kernels"]["isa"],
        rpc_key=content.get("rpc", {}).get("key"),
        native_rank=cpu.get("native-rank"),
        native_parts=tuple(cpu.get("native-parts", ())),
    )


def check_llvm_knows(spec: TargetSpec) -> None:
    """Refuse a CPU name or feature that LLVM does not know: TVM itself only logs and goes on.

    Raises
    ------
    IsegError
        LLVM of the installed TVM has no such ``mcpu`` or ``mattr`` for this triple.
    """
    from tvm.target import Target, codegen

    generic = Target({"kind": "llvm", "mtriple": spec.mtriple})
    known = sorted(str(name) for name in codegen.llvm_get_cpu_archlist(generic))
    if spec.mcpu not in known:
        close = difflib.get_close_matches(spec.mcpu, known, n=3)
        raise IsegError(
            f"target {spec.name}: LLVM knows no CPU {spec.mcpu!r} for {spec.mtriple}",
            f"did you mean {' or '.join(close)}?" if close else "",
        )
    enabled = codegen.llvm_get_cpu_features(Target(spec.tvm_target_dict()))
    for attribute in spec.mattr:
        if (attribute[0] == "+") != (attribute[1:] in enabled):
            raise IsegError(f"target {spec.name}: LLVM does not understand mattr {attribute!r}")
