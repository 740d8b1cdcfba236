"""The search: decisions in traces, seeds, mutation towards the better, resuming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.build import tvm_target
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.log import TuningLog
from iseg_tvm.tuning.search import TaskSearch, cost_model
from iseg_tvm.tuning.tasks import Task
from relay_ops.operator import Schedule

NAME = "norm_linear_gelu_17x96x24"


def seconds_of(schedule: Schedule, task: Task) -> float:
    """A time that each parameter adds to: the last candidates are the best."""
    return sum(1.0 - values.index(schedule[n]) / len(values) for n, values in task.space.items())


class Clock:
    """Measures by `seconds_of` and remembers what it was asked for."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.asked: list[Schedule] = []

    def __call__(
        self, schedules: Sequence[Schedule], done: Callable[[int, float | None], None]
    ) -> None:
        """Fail on the second register block."""
        for index, schedule in enumerate(schedules):
            self.asked.append(schedule)
            failed = schedule["block"] == self.task.space["block"][1]
            done(index, None if failed else seconds_of(schedule, self.task))


def search(task: Task, target: TargetSpec, folder: Path, seed: int, trials: int) -> Clock:
    np.random.seed(seed)  # noqa: NPY002 - XGBModel draws from it
    log = TuningLog(folder, resume=True)
    found = TaskSearch(task, tvm_target(target), log.database, cost_model([task]), seed)
    clock = Clock(task)
    found.measure_default(clock)
    found.begin(4)
    while found.trials < trials and found.step(clock, trials - found.trials):
        pass
    found.end()
    return clock


def test_search_finds_good_schedules(
    tasks: dict[str, Task], target: TargetSpec, tmp_path: Path
) -> None:
    task = tasks[NAME]
    clock = search(task, target, tmp_path / "log", 1, 40)
    assert clock.asked[0] == task.default
    keys = [tuple(schedule.values()) for schedule in clock.asked]
    assert len(set(keys)) == len(keys) == 40
    rng = np.random.default_rng(0)
    random = [
        seconds_of({n: int(rng.choice(v)) for n, v in task.space.items()}, task)
        for _ in range(1000)
    ]
    # Later proposals are guided by the cost model, so they beat blind sampling on average.
    later = [seconds_of(schedule, task) for schedule in clock.asked[24:]]
    assert np.mean(later) < np.mean(random) - 0.1
    log = TuningLog(tmp_path / "log", resume=True)
    resumed = TaskSearch(task, tvm_target(target), log.database, cost_model([task]), 1)
    assert resumed.trials == 40
    assert resumed.best is not None
    assert resumed.best[1] == pytest.approx(min(t for t in map(resumed.measured.get, keys) if t))
    assert any(seconds is None for seconds in resumed.measured.values())


def test_seeds(tasks: dict[str, Task], target: TargetSpec, tmp_path: Path) -> None:
    first, again, other = (
        search(tasks[NAME], target, tmp_path / name, seed, 24).asked
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first != other


def test_resumed_search_repeats_nothing(
    tasks: dict[str, Task], target: TargetSpec, tmp_path: Path
) -> None:
    before = search(tasks[NAME], target, tmp_path / "log", 5, 12).asked
    after = search(tasks[NAME], target, tmp_path / "log", 6, 30).asked
    assert (len(before), len(after)) == (12, 18)
    assert not [schedule for schedule in after if schedule in before]


def test_small_space_is_exhausted(
    tasks: dict[str, Task], target: TargetSpec, tmp_path: Path
) -> None:
    task = next(task for name, task in tasks.items() if name.startswith("layer_norm"))
    values = task.space["task_rows"]
    found = TaskSearch(
        task, tvm_target(target), TuningLog(tmp_path / "log", resume=True).database,
        cost_model([task]), 1,
    )  # fmt: skip
    asked: list[Schedule] = []

    def measure(
        schedules: Sequence[Schedule], done: Callable[[int, float | None], None]
    ) -> None:
        for index, schedule in enumerate(schedules):
            asked.append(schedule)
            done(index, 1.0)

    found.begin(4)
    for _ in range(20):
        if not found.step(measure, 10):
            break
    assert sorted(s["task_rows"] for s in asked) == sorted(values)
