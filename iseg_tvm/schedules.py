"""Finding the best known blocking of every kernel in the tuning logs.

The logs lie in ``tuning_logs/<target>/<model>/``, as MetaSchedule's JSON database and a file that
says where they come from. A record fits any model that has the same operator at the same shapes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir.meta_schedule.database import JSONDatabase

from iseg_tvm.errors import IsegError
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning_files import RECORDS, is_emulated, tuning_logs_dir
from iseg_tvm.workload import chosen, default_schedule, workload_key, workload_module
from relay_ops.operator import LoweringContext, Operator, Schedule, Space

_log = logging.getLogger(__name__)

FAILED_SECONDS = 1e10
"""What MetaSchedule writes as the time of a candidate that did not run."""

MARGIN = 0.97
"""A record counts only if it took less than this share of the default's time in its own log.

Smaller gains are within the noise of a measurement, and turn into losses on another CPU of the
same target.
"""


def load_schedules(target: TargetSpec, directory: Path | None = None) -> TunedSchedules:
    """Schedules of all logs for a target; none if there is no log.

    The project's own logs that were taken on emulated boards are left out, as an emulator's times
    do not tell which blocking is fast on the board; those of a named folder are all used.

    Parameters
    ----------
    target : what will be compiled for; its name is the folder's
    directory : folder of tuning logs; the project's own if left out

    Raises
    ------
    IsegError
        A log is damaged, or ``directory`` does not exist.
    """
    if directory is not None and not directory.is_dir():
        raise IsegError(f"{directory} is not a folder", "name a folder of tuning logs, or none")
    folders = sorted(((directory or tuning_logs_dir()) / target.name).glob(f"*/{RECORDS}"))
    logs = [path.parent for path in folders]
    used = [log for log in logs if directory is not None or not is_emulated(log)]
    _log.debug("tuning logs of %s: %s", target.name, [log.name for log in used])
    return TunedSchedules([open_log(log) for log in used])


def open_log(folder: Path) -> JSONDatabase:
    """MetaSchedule's database of one folder.

    Raises
    ------
    IsegError
        A file is missing or damaged.
    """
    try:
        return JSONDatabase(work_dir=str(folder), allow_missing=False)
    except (RuntimeError, ValueError, TypeError) as error:
        line = str(error).strip().splitlines()[-1]
        raise IsegError(
            f"{folder} holds no tuning log that can be read: {line}",
            "`iseg-tvm tune --resume` repairs a log whose last line is torn",
        ) from None


def in_space(schedule: Schedule, space: Space) -> bool:
    """Whether a kernel generator still offers all values of a schedule."""
    return all(name in space and value in space[name] for name, value in schedule.items())


class TunedSchedules:
    """Looks up the best record of each operator that is lowered.

    Attributes
    ----------
    missing : workloads looked up in vain, by key
    found : schedules of the others, by key
    """

    def __init__(self, databases: Sequence[JSONDatabase] = ()) -> None:
        self.databases = list(databases)
        self.found: dict[str, Schedule] = {}
        self.missing: set[str] = set()

    def __call__(self, operator: Operator, context: LoweringContext) -> Schedule:
        """Return the schedule of the fastest record, or an empty one."""
        if operator.space is None:
            return {}
        key = workload_key(operator, context)
        if key in self.missing:
            return {}
        if key not in self.found:
            best = self._best(operator, context, operator.space(context))
            if best is None:
                self.missing.add(key)
                return {}
            self.found[key] = best
        return self.found[key]

    def _best(self, operator: Operator, context: LoweringContext, space: Space) -> Schedule | None:
        """Fastest schedule relative to the default of its own log; None without any record.

        A log whose default is another one was taken with other kernels and does not count.
        """
        module = workload_module(operator, context)
        default = default_schedule(space)
        best: tuple[float, Schedule] | None = None
        for database in self.databases:
            # Committing a workload that is not there would write to the log.
            if not database.has_workload(module):
                continue
            timed = _timed(database, module, space)
            base = next((seconds for seconds, schedule in timed if schedule == default), None)
            if base is None:
                continue
            fastest, schedule = min(timed, key=lambda pair: pair[0])
            found = (fastest / base, schedule) if fastest < MARGIN * base else (1.0, default)
            best = found if best is None or found[0] < best[0] else best
        return None if best is None else best[1]

    def summary(self, target: TargetSpec) -> str:
        """One line: how many kernels are tuned."""
        total = len(self.found) + len(self.missing)
        if not self.missing:
            return f"All {total} kernels are blocked as the tuning logs for {target.name} say"
        return (
            f"{len(self.missing)} of {total} kernels have no tuning record for {target.name} "
            "and are blocked by default (`iseg-tvm tune` makes records)"
        )


def _timed(
    database: JSONDatabase, module: tvm.IRModule, space: Space
) -> list[tuple[float, Schedule]]:
    """(seconds, schedule) of every record that ran and that the generator still offers."""
    found = []
    for record in database.get_top_k(database.commit_workload(module), len(database)):
        seconds, schedule = seconds_of(record), schedule_of(record)
        if seconds is not None and in_space(schedule, space):
            found.append((seconds, schedule))
    return found


def seconds_of(record: Any) -> float | None:
    """Time of a tuning record; None if its candidate failed."""
    seconds = min(float(s) for s in record.run_secs)
    return seconds if seconds < FAILED_SECONDS else None


def schedule_of(record: Any) -> Schedule:
    """Parameters that a tuning record chose."""
    schedule = tvm.s_tir.Schedule(record.workload.mod)
    record.trace.apply_to_schedule(schedule, remove_postproc=True)
    return chosen(schedule)
