"""Where and with what something was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT, digest, source_files
from iseg_tvm.host_cpu import read_host_cpu, usable_cpus

_PACKAGES = (
    "apache-tvm",
    "apache-tvm-ffi",
    "numpy",
    "torch",
    "timm",
    "onnxruntime",
    "openvino",
    "nncf",
    "onnx",
)


def provenance() -> dict[str, Any]:
    """CPU, versions, commit, hash of the tuning logs and load average, now."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpu_features": sorted(read_host_cpu().features),
        "cpus": len(usable_cpus()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_modified": _git("status", "--porcelain", "--untracked-files=no") != "",
        "tuning_logs": digest(["tuning_logs"]) if source_files(["tuning_logs"]) else None,
        "load_average": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    process = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return process.stdout.strip() if process.returncode == 0 else None
