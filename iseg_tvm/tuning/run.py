"""Tuning a whole model: tasks by their share of its time, budgets, progress, the log."""

from __future__ import annotations

import pickle
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.build import tvm_target
from iseg_tvm.errors import IsegError
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.device import DeviceSpec
from iseg_tvm.tuning.log import TuningLog, describe_session, refuse_existing
from iseg_tvm.tuning.measure import Job, Outcome, Timing
from iseg_tvm.tuning.search import Measure, TaskSearch, cost_model
from iseg_tvm.tuning.tasks import Task, extract_tasks
from iseg_tvm.tuning.workers import Workers
from relay_ops.operator import Schedule

_FEWEST, _MOST = 0.25, 3.0
"""A task's trials are within these multiples of the mean, whatever its share of the time."""


@dataclass(frozen=True)
class Options:
    """How to tune.

    Attributes
    ----------
    trials : candidates measured in all, the defaults included; None: 32 a task
    budget_seconds, task_seconds : longest time in all and for a task; None: no limit
    batch : candidates proposed at once
    timeout : seconds one candidate may take, compilation included
    devices : where candidates run, one worker each
    emulated : the boards are emulated; for the log
    only : parts of the names of the kernels to tune; empty: all
    """

    trials: int | None = None
    budget_seconds: float | None = None
    task_seconds: float | None = None
    batch: int = 4
    seed: int = 0
    timeout: float = 60.0
    timing: Timing = field(default_factory=Timing)
    devices: Sequence[DeviceSpec] = (DeviceSpec(),)
    emulated: bool = False
    only: Sequence[str] = ()


@dataclass(frozen=True)
class TaskState:
    """Progress of one task, to be shown.

    Attributes
    ----------
    number, total : this task among all
    best_ms, default_ms : None if nothing ran yet
    trials, wanted : candidates measured and planned
    eta_seconds : estimated time that the whole run still takes
    """

    number: int
    total: int
    name: str
    best_ms: float | None
    default_ms: float | None
    trials: int
    wanted: int
    eta_seconds: float

    def __str__(self) -> str:
        """Progress line."""
        best = "none yet" if self.best_ms is None else f"best {self.best_ms:.3f} ms"
        if self.best_ms and self.default_ms:
            best += f" {self.default_ms / self.best_ms:.2f}x default"
        minutes, seconds = divmod(round(self.eta_seconds), 60)
        return (
            f"task {self.number}/{self.total} {self.name} {best} "
            f"{self.trials}/{self.wanted} trials ETA {minutes}:{seconds:02d}"
        )


@dataclass(frozen=True)
class TunedTask:
    """Result of one task; ``None`` where nothing was measured."""

    name: str
    calls: int
    default_ms: float | None
    best_ms: float | None
    schedule: Mapping[str, int] | None
    trials: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "task": self.name,
            "calls": self.calls,
            "default_ms": self.default_ms,
            "best_ms": self.best_ms,
            "schedule": None if self.schedule is None else dict(self.schedule),
            "trials": self.trials,
            "failed": self.failed,
        }


def tune(
    model: QuantizedModel,
    target: TargetSpec,
    folder: Path,
    options: Options,
    *,
    resume: bool = False,
    flags: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[TunedTask]:
    """Tune every kernel of ``model`` and write the log.

    Parameters
    ----------
    model : weights count only as far as they choose between kernels
    target : what the kernels are compiled for
    folder : the log, ``<tuning logs>/<target>/<model>``
    options : budgets, seeds, devices
    resume : go on with the log that is there
    flags : for the log's provenance
    report : gets a progress line after every batch

    Returns
    -------
    list of TunedTask
        In the order of the tasks' share of the model's time; also in the log's summary.

    Raises
    ------
    IsegError
        The log exists and ``resume`` is false, the model cannot be compiled, or no device works.
    """
    refuse_existing(folder, resume=resume)
    tasks = [t for t in extract_tasks(model, target) if _is_wanted(t, options.only)]
    if not tasks:
        raise IsegError(f"no kernel's name contains {' or '.join(options.only)}")
    with (
        tempfile.TemporaryDirectory(prefix="iseg-tune-") as scratch,
        Workers(
            options.devices, target, timeout=options.timeout, timing=options.timing, report=report
        ) as workers,
    ):
        boards = workers.describe()
        log = TuningLog(folder, resume=resume)
        log.add_session(describe_session(flags or {}, boards, options.emulated))
        run = _Run(tasks, target, log, options, workers, Path(scratch), report)
        try:
            run.all_tasks()
        finally:
            log.write_summary([row.to_dict() for row in run.results()])
    return run.results()


class _Run:
    """State of one call of `tune`."""

    def __init__(
        self, tasks: Sequence[Task], target: TargetSpec, log: TuningLog, options: Options,
        workers: Workers, scratch: Path, report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.target, self.log, self.options = target, log, options
        self.workers, self.scratch, self.report = workers, scratch, report
        self.started = time.monotonic()
        self.measured = 0
        model, llvm = cost_model(tasks), tvm_target(target)
        # The cost model's ranking before its first training draws from numpy's global generator.
        np.random.seed(options.seed)  # noqa: NPY002
        self.searches = [
            TaskSearch(task, llvm, log.database, model, task_seed(task, options.seed))
            for task in tasks
        ]
        self.failed = dict.fromkeys((task.key for task in tasks), 0)

    def all_tasks(self) -> None:
        """Measure all defaults, then spend the trials where the time goes."""
        for number, search in enumerate(self.searches, start=1):
            if self._time_left() > 0:
                search.measure_default(self._measurer(search, must_run=True))
                self._show(number, search, search.trials)
        self.searches.sort(key=_share, reverse=True)
        wanted = self._plan()
        for number, search in enumerate(self.searches, start=1):
            self._one_task(number, search, wanted)

    def results(self) -> list[TunedTask]:
        """What is known of each task."""
        return [_result(search) for search in self.searches]

    def _plan(self) -> dict[str, int]:
        """Trials of each task, by its share of the model's time."""
        count = len(self.searches)
        total = self.options.trials or 32 * count
        mean, time_of_all = total / count, sum(_share(search) for search in self.searches)
        plan = {}
        for search in self.searches:
            share = _share(search) / time_of_all if time_of_all else 1 / count
            trials = max(_FEWEST * mean, min(_MOST * mean, share * total))
            plan[search.task.key] = min(max(round(trials), 1), search.size)
        return plan

    def _one_task(self, number: int, search: TaskSearch, wanted: Mapping[str, int]) -> None:
        """Search until the task's trials or its time are used up."""
        planned, started = wanted[search.task.key], time.monotonic()
        if search.trials >= planned or self._time_left() <= 0:
            return
        limit = self.options.task_seconds or float("inf")
        search.begin(self.options.batch)
        while search.trials < planned and time.monotonic() - started < limit:
            rest = planned - search.trials
            if self._time_left() <= 0 or not search.step(self._measurer(search), rest):
                break
            rest = sum(max(0, wanted[s.task.key] - s.trials) for s in self.searches)
            self._show(number, search, planned, rest)
        search.end()

    def _job(self, search: TaskSearch) -> Path:
        """File that tells the workers of a task; made once, with the reference's result."""
        task = search.task
        path = self.scratch / f"{zlib.crc32(task.key.encode()):08x}.pickle"
        if not path.exists():
            path.write_bytes(pickle.dumps(job_of(task, self.target, self.options.seed)))
        return path

    def _measurer(self, search: TaskSearch, *, must_run: bool = False) -> Measure:
        """Measures candidates of one task on the workers; without the default it is pointless."""

        def run(schedules: Sequence[Schedule], done: Callable[[int, float | None], None]) -> None:
            def finished(index: int, outcome: Outcome) -> None:
                self.measured += 1
                if outcome.error is not None and must_run:
                    name = search.task.name
                    raise IsegError(f"the default kernel of {name} fails: {outcome.error}")
                if outcome.error is not None:
                    self.log.failed(search.task.name, schedules[index], outcome.error)
                done(index, _normalised(outcome, search.default_seconds))

            self.workers.measure(self._job(search), schedules, finished)

        return run

    def _show(self, number: int, search: TaskSearch, wanted: int, rest: int = 0) -> None:
        best, default = search.best, search.default_seconds
        spent = time.monotonic() - self.started
        eta = min(spent / max(self.measured, 1) * rest, max(self._time_left(), 0.0))
        state = TaskState(
            number, len(self.searches), search.task.name, best and best[1] * 1e3,
            default and default * 1e3, search.trials, wanted, eta,
        )  # fmt: skip
        self.report(str(state))

    def _time_left(self) -> float:
        if self.options.budget_seconds is None:
            return float("inf")
        return self.options.budget_seconds - (time.monotonic() - self.started)


def _is_wanted(task: Task, only: Sequence[str]) -> bool:
    return not only or any(part in task.name for part in only)


def job_of(task: Task, target: TargetSpec, seed: int) -> Job:
    """What workers are told of a task; computes the reference's result."""
    tensors, context = task.tensors(task_seed(task, seed)), task.context
    return Job(
        task.operator.name, context.types, context.constants, context.attributes,
        context.result, tensors, task.expected(tensors), target,
    )  # fmt: skip


def task_seed(task: Task, seed: int) -> int:
    """Seed of a task, the same on every machine."""
    return zlib.crc32(f"{seed} {task.key}".encode()) % (2**31 - 1)


def _share(search: TaskSearch) -> float:
    """Time of all the model's calls of the default kernel."""
    return search.task.calls * (search.default_seconds or 0.0)


def _normalised(outcome: Outcome, default_seconds: float | None) -> float | None:
    """A candidate's time on the scale of the default's first measurement."""
    if outcome.seconds is None or outcome.default_seconds is None:
        return None
    return outcome.seconds / outcome.default_seconds * (default_seconds or outcome.default_seconds)


def _result(search: TaskSearch) -> TunedTask:
    best, default = search.best, search.default_seconds
    return TunedTask(
        name=search.task.name,
        calls=search.task.calls,
        default_ms=default and round(default * 1e3, 4),
        best_ms=best and round(best[1] * 1e3, 4),
        schedule=best and best[0],
        trials=search.trials,
        failed=sum(seconds is None for seconds in search.measured.values()),
    )
