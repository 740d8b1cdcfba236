"""The log: what `compile` finds in it, and how it is repaired after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tvm
from tvm.s_tir.meta_schedule.database import TuningRecord

from iseg_tvm.build import tvm_target
from iseg_tvm.errors import IsegError
from iseg_tvm.schedules import (
    MARGIN,
    TunedSchedules,
    load_schedules,
    open_log,
    schedule_of,
    seconds_of,
)
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.log import TuningLog, repair
from iseg_tvm.tuning.run import TunedTask
from iseg_tvm.tuning.tasks import Task
from iseg_tvm.tuning_files import PROVENANCE, RECORDS, SUMMARY, WORKLOADS
from iseg_tvm.workload import sample
from relay_ops.operator import Schedule
from tests.tuning.conftest import TRIALS

Tuned = tuple[Path, list[TunedTask]]


def test_log_of_a_run(tuned: Tuned, tasks: dict[str, Task], target: TargetSpec) -> None:
    """Guards the pin of apache-tvm-ffi: with 0.1.15 MetaSchedule ends in a segmentation fault."""
    logs, rows = tuned
    folder = logs / target.name / "tiny"
    records = (folder / RECORDS).read_text().splitlines()
    assert len(records) == sum(row.trials for row in rows)
    assert len(tasks) < len(records) <= TRIALS + len(tasks)
    assert len((folder / WORKLOADS).read_text().splitlines()) == len(tasks)
    assert len(open_log(folder)) == len(records)
    for row in rows:
        assert row.failed == 0
        assert row.default_ms is not None
        assert row.best_ms is not None
        assert 0 <= row.best_ms <= row.default_ms
    assert json.loads((folder / SUMMARY).read_text())["tasks"] == [r.to_dict() for r in rows]
    (session,) = json.loads((folder / PROVENANCE).read_text())["sessions"]
    assert session["emulated"] is False
    assert session["packages"]["apache-tvm"].startswith("0.27")


def test_compile_takes_the_best_record(
    tuned: Tuned, tasks: dict[str, Task], target: TargetSpec
) -> None:
    """The best one if it beats the default clearly, else the default."""
    logs, rows = tuned
    schedules = load_schedules(target, logs)
    records = open_log(logs / target.name / "tiny").get_all_tuning_records()
    for row in rows:
        task = tasks[row.name]
        times = {
            tuple(schedule_of(r).items()): seconds_of(r)
            for r in records
            if r.workload.mod["main"].attrs["iseg.workload"] == task.key
        }
        best, default = (times[tuple(s.items())] for s in (row.schedule, task.default))
        clear = best < MARGIN * default
        assert schedules(task.operator, task.context) == (row.schedule if clear else task.default)
    assert not schedules.missing
    assert schedules.summary(target).startswith(f"All {len(rows)} kernels")


def add_record(
    log: TuningLog, task: Task, target: TargetSpec, decisions: Schedule, seconds: float
) -> None:
    """Write what a measurement of a candidate writes."""
    schedule = tvm.s_tir.Schedule(task.module)
    for name, value in decisions.items():
        sample(schedule, name, [value], first=True)
    workload = log.database.commit_workload(task.module)
    record = TuningRecord(schedule.trace, workload, [seconds], tvm_target(target))
    log.database.commit_tuning_record(record)


@pytest.mark.parametrize("share", [0.9, 0.99, None])
def test_margin(
    tasks: dict[str, Task], target: TargetSpec, tmp_path: Path, share: float | None
) -> None:
    """A candidate at a share of the default's time; None: the default was not measured."""
    task = next(task for task in tasks.values() if len(task.space.get("block", ())) > 1)
    other = {**task.default, "block": task.space["block"][-1]}
    log = TuningLog(tmp_path / target.name / "made", resume=False)
    if share is not None:
        add_record(log, task, target, task.default, 1.0)
    add_record(log, task, target, other, share or 0.5)
    expected = {0.9: other, 0.99: task.default, None: {}}[share]
    assert load_schedules(target, tmp_path)(task.operator, task.context) == expected


def test_no_record(tasks: dict[str, Task], target: TargetSpec, tmp_path: Path) -> None:
    for schedules in (load_schedules(target, tmp_path), TunedSchedules()):
        for task in tasks.values():
            assert schedules(task.operator, task.context) == {}
        wanted = f"{len(tasks)} of {len(tasks)} kernels have no tuning record for {target.name}"
        assert schedules.summary(target).startswith(wanted)


def test_another_target_has_its_own_log(tuned: Tuned, tasks: dict[str, Task]) -> None:
    from iseg_tvm.targets import load_target

    schedules = load_schedules(load_target("rpi4"), tuned[0])
    task = next(iter(tasks.values()))
    assert schedules(task.operator, task.context) == {}


def test_records_outside_the_space_do_not_count(
    tuned: Tuned, tasks: dict[str, Task], target: TargetSpec, tmp_path: Path
) -> None:
    """A kernel's parameters may change after its log was taken."""
    folder = shutil.copytree(tuned[0] / target.name / "tiny", tmp_path / target.name / "old")
    path = folder / RECORDS
    path.write_text(path.read_text().replace("iseg.", "iseg.former_"))
    schedules = load_schedules(target, tmp_path)
    task = next(iter(tasks.values()))
    assert schedules(task.operator, task.context) == {}
    assert len(schedules.missing) == 1


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_torn_lines_are_dropped(
    tuned: Tuned, target: TargetSpec, tmp_path: Path, cut: int
) -> None:
    folder = shutil.copytree(tuned[0] / target.name / "tiny", tmp_path / "torn")
    path = folder / RECORDS
    whole = path.read_text()
    last = whole.splitlines()[-1]
    path.write_text(whole + last[:cut])
    with pytest.raises(IsegError, match="no tuning log that can be read"):
        open_log(folder)
    assert repair(folder) == [RECORDS]
    assert path.read_text() == whole
    assert repair(folder) == []


def test_record_without_its_workload_is_dropped(
    tuned: Tuned, target: TargetSpec, tmp_path: Path
) -> None:
    folder = shutil.copytree(tuned[0] / target.name / "tiny", tmp_path / "torn")
    path = folder / WORKLOADS
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines)[:-10])
    assert repair(folder) == [WORKLOADS, RECORDS]
    numbers = {json.loads(line)[0] for line in (folder / RECORDS).read_text().splitlines()}
    assert numbers == set(range(len(lines) - 1))
    open_log(folder)


def test_existing_log_is_not_overwritten(tuned: Tuned, target: TargetSpec) -> None:
    folder = tuned[0] / target.name / "tiny"
    with pytest.raises(IsegError, match="holds a tuning log already"):
        TuningLog(folder, resume=False)
    assert len(TuningLog(folder, resume=True).database) > 0


def test_missing_folder_is_named(target: TargetSpec, tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="nowhere is not a folder"):
        load_schedules(target, tmp_path / "nowhere")
