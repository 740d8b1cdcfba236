"""Workers: results are compared, and a candidate that crashes or hangs costs only itself."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.device import DeviceSpec
from iseg_tvm.tuning.measure import Job, Outcome
from iseg_tvm.tuning.run import job_of
from iseg_tvm.tuning.tasks import Task
from iseg_tvm.tuning.workers import Workers
from relay_ops.operator import LoweringContext, Schedule
from tests.tuning.conftest import QUICK

DEFAULT: Schedule = {}


class Aborting(Job):
    """LLVM ends the process on instructions it cannot select."""

    def context(self, schedule: Schedule) -> LoweringContext:
        """End the process on all but the default."""
        if schedule:
            os.abort()
        return super().context(schedule)


class Hanging(Job):
    """A kernel that never ends."""

    def context(self, schedule: Schedule) -> LoweringContext:
        """Stand still on all but the default."""
        if schedule:
            time.sleep(600)
        return super().context(schedule)


@pytest.fixture(scope="module")
def workers(target: TargetSpec) -> Iterator[Workers]:
    with Workers([DeviceSpec(threads=1)], target, timeout=30.0, timing=QUICK, report=print) as made:
        yield made


@pytest.fixture(scope="module")
def job(tasks: dict[str, Task], target: TargetSpec) -> Job:
    return job_of(tasks["norm_linear_gelu_17x96x24"], target, 0)


def outcomes(workers: Workers, job: Job, folder: Path, *schedules: Schedule) -> list[Outcome]:
    path = folder / f"{type(job).__name__}.pickle"  # workers keep what they have read
    path.write_bytes(pickle.dumps(job))
    results: dict[int, Outcome] = {}
    workers.measure(path, schedules, results.__setitem__)
    return [results[index] for index in range(len(schedules))]


def test_times(workers: Workers, job: Job, tmp_path: Path) -> None:
    for outcome in outcomes(workers, job, tmp_path, DEFAULT, {"block": 402}):
        assert outcome.error is None
        assert outcome.seconds is not None
        assert outcome.default_seconds is not None
        assert 0 < outcome.seconds < 1


def test_wrong_bits_have_no_time(workers: Workers, job: Job, tmp_path: Path) -> None:
    expected = job.expected.copy()
    expected[3, 5] ^= 1
    (outcome,) = outcomes(workers, replace(job, expected=expected), tmp_path, DEFAULT)
    assert outcome.seconds is None
    assert outcome.error == f"1 of {expected.size} values differ from the reference"


def test_impossible_candidates(workers: Workers, job: Job, tmp_path: Path) -> None:
    weight = np.full((96, 24), -128, dtype=np.int8)
    refused = replace(job, constants={"weight": weight})
    (outcome,) = outcomes(workers, refused, tmp_path, DEFAULT)
    assert outcome.seconds is None
    assert outcome.error
    assert not outcome.device_lost


def test_crash_costs_one_trial(workers: Workers, job: Job, tmp_path: Path) -> None:
    crash, fine = outcomes(
        workers, Aborting(**vars(job)), tmp_path, {"block": 402}, DEFAULT
    )
    assert crash.error is not None
    assert crash.error.startswith("the process died")
    assert fine.error is None
    assert fine.seconds is not None


def test_endless_candidate_is_ended(job: Job, target: TargetSpec, tmp_path: Path) -> None:
    devices = [DeviceSpec(threads=1)]
    with Workers(devices, target, timeout=25.0, timing=QUICK, report=print) as workers:
        outcomes(workers, job, tmp_path, DEFAULT)
        workers.set_timeout(1.0)
        (late,) = outcomes(workers, Hanging(**vars(job)), tmp_path, {"block": 402})
    assert late.error == "no result after 1 s"
