"""Where tuning logs lie and what their files are called; needs no TVM.

A log is the folder ``tuning_logs/<target>/<model>/``: MetaSchedule's JSON database, and files that
say where it comes from and what was found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iseg_tvm.errors import IsegError

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
PROVENANCE, SUMMARY, FAILURES = "provenance.json", "summary.json", "failures.jsonl"
FORMAT_VERSION = 1
"""Of the provenance; files without a version are of version 1."""

_PACKAGE = Path(__file__).resolve().parent


def tuning_logs_dir() -> Path:
    """Return the folder of tuning logs, of an installed wheel or of a checkout."""
    installed = _PACKAGE / "installed_tuning_logs"
    return installed if installed.is_dir() else _PACKAGE.parent / "tuning_logs"


def read_sessions(log: Path) -> list[dict[str, Any]]:
    """Return what each run of a log noted about itself; none if it was killed before.

    Raises
    ------
    IsegError
        The file is damaged, or a newer iseg-tvm wrote it.
    """
    values = read_notes(log / PROVENANCE)
    version = values.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise IsegError(
            f"{log / PROVENANCE} has format version {version}; this iseg-tvm reads up to "
            f"{FORMAT_VERSION}",
            "update iseg-tvm, or tune into another folder with -o",
        )
    return list(values.get("sessions", []))


def read_notes(path: Path) -> dict[str, Any]:
    """Read a JSON file of a log; empty if there is none.

    Raises
    ------
    IsegError
        It is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise IsegError(f"{path} is damaged", "delete it, or tune again") from None


def is_emulated(log: Path) -> bool:
    """Whether any part of a log was taken on emulated boards."""
    return any(session["emulated"] for session in read_sessions(log))
