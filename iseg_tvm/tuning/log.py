"""The folder of one tuning log: MetaSchedule's two JSON files, failures, provenance, summary."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir.meta_schedule.database import JSONDatabase

from iseg_tvm.build import git_commit
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write
from iseg_tvm.host_cpu import read_host_cpu
from iseg_tvm.schedules import open_log
from iseg_tvm.tuning_files import (
    FAILURES,
    FORMAT_VERSION,
    PROVENANCE,
    RECORDS,
    SUMMARY,
    WORKLOADS,
    read_sessions,
)


class TuningLog:
    """A log folder, open for appending.

    Parameters
    ----------
    folder : made if missing
    resume : go on with what is there; without it an existing log is refused

    Raises
    ------
    IsegError
        There is a log and ``resume`` is false, or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder = folder
        refuse_existing(folder, resume=resume)
        if (folder / RECORDS).exists():
            repair(folder)
        else:
            for name in (WORKLOADS, RECORDS):
                with atomic_write(folder / name):
                    pass
        self.database: JSONDatabase = open_log(folder)

    def failed(self, task: str, schedule: Mapping[str, int], error: str) -> None:
        """Note why a candidate has no time."""
        line = json.dumps({"task": task, "schedule": dict(schedule), "error": error})
        with (self.folder / FAILURES).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def add_session(self, session: Mapping[str, Any]) -> None:
        """Add a run to the provenance, before its first measurement."""
        sessions = [*read_sessions(self.folder), dict(session)]
        values = {"format_version": FORMAT_VERSION, "sessions": sessions}
        _write_json(self.folder / PROVENANCE, values)

    def write_summary(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table of tasks that people read; `compile` reads the records."""
        _write_json(self.folder / SUMMARY, {"tasks": [dict(row) for row in rows]})


def refuse_existing(folder: Path, *, resume: bool) -> None:
    """Raise IsegError if there is a log, and ``resume`` is false."""
    if (folder / RECORDS).exists() and not resume:
        raise IsegError(
            f"{folder} holds a tuning log already",
            "give --resume to go on with it, or another folder with -o",
        )


def repair(folder: Path) -> list[str]:
    """Drop what a killed process left half-written; return the names of the files changed.

    A torn last line is dropped, and so is a record whose workload was never written.
    """
    changed = []
    count = 0
    for name in (WORKLOADS, RECORDS):
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [line for line in text.split("\n") if _is_json(line)]
        if name == WORKLOADS:
            count = len(lines)
        else:
            lines = [line for line in lines if json.loads(line)[0] < count]
        kept = "".join(f"{line}\n" for line in lines)
        if kept != text or not path.exists():
            with atomic_write(path) as stream:
                stream.write(kept.encode())
            changed.append(name)
    return changed


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), list)
    except ValueError:
        return False


def describe_session(
    flags: Mapping[str, Any], boards: Sequence[Mapping[str, Any]], emulated: bool
) -> dict[str, Any]:
    """Where and with what is measured.

    Parameters
    ----------
    flags : of the run
    boards : what remote boards say about themselves; empty: this machine measures
    emulated : whether the boards are emulated, so that their times say little about real ones
    """
    host = read_host_cpu()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "measured_on": [dict(board) for board in boards] or [_this_machine()],
        "emulated": emulated,
        "host": {"arch": host.arch, "cpu": _cpu_name(), "cpus": host.num_cores},
        "python": platform.python_version(),
        "packages": {
            name: importlib.metadata.version(name)
            for name in ("apache-tvm", "apache-tvm-ffi", "xgboost", "numpy")
        },
        "llvm": str(tvm.target.codegen.llvm_version_major()),
        "git_commit": git_commit(),
        "flags": dict(flags),
    }


def _this_machine() -> dict[str, Any]:
    return {"name": "this machine", "cpu": _cpu_name()}


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(path) as stream:
        stream.write((json.dumps(values, indent=1) + "\n").encode())
