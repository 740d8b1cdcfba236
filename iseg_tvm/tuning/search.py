"""MetaSchedule's search over one task's design space: sampled decisions, mutation, cost model.

The schedule of a workload (:mod:`iseg_tvm.workload`) only samples parameters and notes them as
annotations; the trace in the log holds exactly these decisions. Kernels come from the generators.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from iseg_tvm.schedules import FAILED_SECONDS, in_space, schedule_of, seconds_of
from iseg_tvm.tuning.tasks import Task
from iseg_tvm.workload import chosen, sample
from relay_ops.operator import Schedule

WARM_UP = 16
"""Measurements before the cost model is believed; until then candidates are ranked at random."""

_POPULATION = 64
_LARGEST_SEED = 2**31 - 1

Measure = Callable[[Sequence[Schedule], Callable[[int, float | None], None]], None]
"""(schedules, done): measures all, calls ``done(index, seconds)`` after each; None: it failed."""


@derived_object
class DecisionMutator(ms.mutator.PyMutator):
    """Changes one parameter to another candidate."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.rng = np.random.default_rng(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing depends on the task."""

    def apply(self, trace: Any, _: int) -> Any:
        """Return the trace with one decision changed, None if there is none to change."""
        choices = [(i, len(i.attrs[0])) for i in trace.insts if i.kind.name == "SampleCategorical"]
        choices = [(instruction, count) for instruction, count in choices if count > 1]
        if not choices:
            return None
        instruction, count = choices[int(self.rng.integers(len(choices)))]
        return trace.with_decision(
            instruction, int(self.rng.integers(count)), remove_postproc=True
        )

    def clone(self) -> Any:
        """Return an equal one."""
        return DecisionMutator(self.seed)


@derived_object
class DecisionFeatures(ms.feature_extractor.PyFeatureExtractor):
    """What the cost model sees of a candidate: parameters, how they divide the rows, the shape.

    Parameters
    ----------
    tasks : all that one cost model serves; a parameter that a task lacks is -1
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.names = sorted({name for task in tasks for name in task.space})
        self.operators = sorted({task.operator.name for task in tasks})
        self.tasks = {task.key: task for task in tasks}

    def extract_from(self, context: Any, candidates: Any) -> Any:
        """One row of float32 features a candidate."""
        task = self.tasks[str(context.mod["main"].attrs["iseg.workload"])]
        rows = [self.row(task, chosen(candidate.sch)) for candidate in candidates]
        return [tvm.runtime.tensor(np.array([row], dtype=np.float32)) for row in rows]

    def row(self, task: Task, schedule: Schedule) -> list[float]:
        """Features of one schedule."""
        rows = task.context.result.shape[0]
        features: list[float] = [self.operators.index(task.operator.name)]
        for name in self.names:
            # divmod splits register blocks into rows and vectors (see Isa.block); other values
            # only get a second copy of themselves.
            value = schedule.get(name, -1)
            for part in (value, *divmod(value, 100)):
                step = max(part, 1)
                features += [part, -(-rows // step), rows % step / step]
        extents = [n for spec in task.context.types.values() for n in spec.shape]
        sizes = (*task.context.result.shape, max(extents), math.prod(task.context.result.shape))
        return features + [math.log2(n) for n in sizes]


def cost_model(tasks: Sequence[Task]) -> Any:
    """MetaSchedule's XGBoost model on our features, shared by all tasks."""
    return ms.cost_model.XGBModel(
        extractor=DecisionFeatures(tasks),
        num_warmup_samples=WARM_UP,
        early_stopping_rounds=10,
        num_tuning_cores=1,
    )


class TaskSearch:
    """Evolutionary search for one task, resumable from its database.

    Parameters
    ----------
    task : what is tuned
    target : TVM's target
    database : MetaSchedule's JSON database; every measurement is appended at once
    model : the cost model
    seed : the same seed proposes the same candidates for the same measurements

    Attributes
    ----------
    measured : seconds of each schedule in the log, None for failed ones
    """

    def __init__(self, task: Task, target: Any, database: Any, model: Any, seed: int) -> None:
        # TuneContext imports the stock tensor intrinsics, which takes up to 40 s; none is used.
        intrinsics = "tvm.s_tir.tensor_intrin"
        sys.modules.setdefault(intrinsics, types.ModuleType(intrinsics))
        self.task, self.target, self.database, self.model = task, target, database, model
        self.space = task.space
        self.size = math.prod(len(values) for values in self.space.values())
        self.module = task.module
        self.workload = database.commit_workload(self.module)
        self.measured: dict[tuple[int, ...], float | None] = {}
        self.context = ms.TuneContext(
            self.module,
            target=target,
            space_generator=ms.space_generator.ScheduleFn(
                self._sample,
                sch_rules=[],
                postprocs=[],
                mutator_probs={DecisionMutator(seed % _LARGEST_SEED): 1.0},
            ),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=_POPULATION, init_min_unmeasured=1, genetic_num_iters=3
            ),
            task_name=task.name,
            rand_state=seed % _LARGEST_SEED + 1,
            num_threads=1,
        )
        self._replay()

    @property
    def trials(self) -> int:
        """Candidates measured, failed ones and those of earlier runs included."""
        return len(self.measured)

    @property
    def best(self) -> tuple[Schedule, float] | None:
        """Fastest schedule and its seconds; None if none ran."""
        timed = [(seconds, key) for key, seconds in self.measured.items() if seconds is not None]
        if not timed:
            return None
        seconds, key = min(timed)
        return dict(zip(self.space, key, strict=True)), seconds

    @property
    def default_seconds(self) -> float | None:
        """Seconds of the default schedule, None if it was not measured or failed."""
        return self.measured.get(self._key(self.task.default))

    def begin(self, batch: int) -> None:
        """Prepare for `step` with up to ``batch`` candidates at once."""
        records = [r for r in self.database.get_all_tuning_records() if self._is_ours(r)]
        if records:
            candidates = [record.as_measure_candidate() for record in records]
            results = [_result(seconds_of(record)) for record in records]
            self.model.update(self.context, candidates, results)
        self.context.pre_tuning(
            max_trials=self.size * 64,  # the caller counts
            num_trials_per_iter=batch,
            design_spaces=self.context.generate_design_space(),
            database=self.database,
            cost_model=self.model,
        )

    def end(self) -> None:
        """Counterpart of `begin`."""
        self.context.post_tuning()

    def measure_default(self, measure: Measure) -> None:
        """Measure the default schedule, unless the log has it."""
        if self._key(self.task.default) not in self.measured:
            schedule = tvm.s_tir.Schedule(self.module)
            self._sample(schedule, first=True)
            arguments = ms.arg_info.ArgInfo.from_entry_func(self.module, remove_preproc=True)
            self._measure([ms.MeasureCandidate(schedule, arguments)], measure)

    def step(self, measure: Measure, most: int) -> bool:
        """Propose candidates and measure up to ``most`` new ones; False if there are no more."""
        if self.trials >= self.size:
            return False
        candidates = self.context.generate_measure_candidates()
        if not candidates:
            return False
        new = [c for c in candidates if self._key(chosen(c.sch)) not in self.measured][:most]
        self._measure(new, measure)
        candidates = [c for c in candidates if self._key(chosen(c.sch)) in self.measured]
        results = [_result(self.measured[self._key(chosen(c.sch))]) for c in candidates]
        if new:
            self.model.update(self.context, candidates, results)
        self.context.notify_runner_results(candidates, results)
        return True

    def _measure(self, candidates: Sequence[Any], measure: Measure) -> None:
        """Measure candidates; each is in the log before the next can go wrong."""
        schedules = [chosen(candidate.sch) for candidate in candidates]

        def done(index: int, seconds: float | None) -> None:
            candidate = candidates[index]
            self.measured[self._key(schedules[index])] = seconds
            written = FAILED_SECONDS if seconds is None else seconds
            record = ms.database.TuningRecord(
                candidate.sch.trace, self.workload, [written], self.target, candidate.args_info
            )
            self.database.commit_tuning_record(record)

        measure(schedules, done)

    def _sample(self, schedule: tvm.s_tir.Schedule, *, first: bool = False) -> None:
        for name, values in self.space.items():
            sample(schedule, name, values, first=first)

    def _key(self, schedule: Schedule) -> tuple[int, ...]:
        return tuple(schedule[name] for name in self.space)

    def _is_ours(self, record: Any) -> bool:
        return record.workload.same_as(self.workload) and in_space(schedule_of(record), self.space)

    def _replay(self) -> None:
        """Read what earlier runs measured; the same decisions twice: the faster one counts."""
        for record in self.database.get_all_tuning_records():
            if self._is_ours(record):
                key, seconds = self._key(schedule_of(record)), seconds_of(record)
                known = self.measured.get(key)
                self.measured[key] = seconds if known is None else min(known, seconds or known)


def _result(seconds: float | None) -> Any:
    if seconds is None:
        return ms.runner.RunnerResult(None, "failed")
    return ms.runner.RunnerResult([seconds], None)
