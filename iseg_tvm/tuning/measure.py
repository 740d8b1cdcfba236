"""Measuring one candidate: generate, compile, compare all bits, time. Runs in a worker process.

A candidate is timed in turn with the task's default schedule, and its time is the median of their
ratios times the default's time: what slows the machine for a while slows both.
"""

from __future__ import annotations

import pickle
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from iseg_tvm.build import tvm_target
from iseg_tvm.errors import IsegError
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.remote.errors import BoardError
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.device import Device, DeviceLostError, DeviceSpec, Kernel, open_device
from relay_ops import OPERATORS
from relay_ops.operator import LoweringContext, OperatorError, Schedule, TensorSpec

_CAREFUL = 3
"""Times as many turns for a candidate that beats the default: chance must not choose the best."""

_HOPELESS = 2.0
"""A candidate this many times slower than the default in the first turn is not timed again."""


@dataclass(frozen=True)
class Job:
    """What a worker must know of a task; stored in a file, so that it is sent once.

    Attributes
    ----------
    operator : name in :data:`relay_ops.OPERATORS`
    tensors : arguments of the operator
    expected : result of the NumPy reference
    """

    operator: str
    types: Mapping[str, TensorSpec]
    constants: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]
    result: TensorSpec
    tensors: Mapping[str, np.ndarray]
    expected: np.ndarray
    target: TargetSpec

    def context(self, schedule: Schedule) -> LoweringContext:
        """What the operator's ``lower`` is given."""
        isa = get_isa(self.target.isa)
        return LoweringContext(
            self.types, self.constants, self.attributes, self.result, isa, schedule
        )


@dataclass(frozen=True)
class Outcome:
    """One measured candidate.

    Attributes
    ----------
    default_seconds : fastest calls of the default
    seconds : of the candidate, by the median of the turns' ratios
    error : why there is no time
    device_lost : whether that is the device's fault, so that the candidate must be tried again
    fatal : whether no candidate can be measured (a board of the wrong kind)
    description : of the device, only from `describe_device`
    """

    seconds: float | None = None
    default_seconds: float | None = None
    error: str | None = None
    device_lost: bool = False
    fatal: bool = False
    description: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Timing:
    """How long to time.

    Attributes
    ----------
    turns : times that candidate and default are timed in turn; more if the candidate is faster
    seconds : least time of one turn of one of them
    """

    turns: int = 3
    seconds: float = 0.01


class WrongResultError(IsegError):
    """A kernel's result differs from the reference."""


def measure(job_file: Path, schedule: Schedule, device: DeviceSpec, timing: Timing) -> Outcome:
    """Compile a candidate, check its result and time it beside the default.

    Whatever fails is told in the outcome: exceptions of workers arrive without their type.
    """
    try:
        return _measure(job_file, schedule, device, timing)
    except DeviceLostError as error:
        return _lost(error)
    except BoardError as error:
        _forget_device()
        try:
            _device(device, _job(job_file).target)
        except DeviceLostError as gone:
            return _lost(gone)
        return Outcome(error=error.message)  # the board is well: it was the kernel
    except (IsegError, OperatorError, RuntimeError, ValueError, TypeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Outcome(error=lines[-1].strip() if lines else repr(error))


def describe_device(device: DeviceSpec, target: TargetSpec) -> Outcome:
    """Open the device and say what it is; the outcome of a candidate that is not there."""
    try:
        return Outcome(description=_device(device, target).describe())
    except DeviceLostError as error:
        return _lost(error)
    except BoardError as error:
        return Outcome(error=error.message, device_lost=True)


def _lost(error: DeviceLostError) -> Outcome:
    _forget_device()
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return Outcome(error=message, device_lost=True, fatal=error.fatal)


def _measure(job_file: Path, schedule: Schedule, device: DeviceSpec, timing: Timing) -> Outcome:
    job = _job(job_file)
    candidate = _kernel(job, schedule, _device(device, job.target))
    default = _default(job_file, device)
    numbers = [_calls(kernel, timing.seconds) for kernel in (candidate, default)]
    ratios, fastest = [], float("inf")
    for turn in range(_CAREFUL * timing.turns):
        own, other = candidate.seconds(numbers[0]), default.seconds(numbers[1])
        ratios.append(own / other)
        fastest = min(fastest, other)
        hopeless = turn == 0 and ratios[0] > _HOPELESS
        if hopeless or (turn + 1 == timing.turns and statistics.median(ratios) > 1):
            break
    return Outcome(seconds=statistics.median(ratios) * fastest, default_seconds=fastest)


def _calls(kernel: Kernel, seconds: float) -> int:
    """Calls that take about ``seconds``."""
    once = min(kernel.seconds(1) for _ in range(2))
    return max(1, min(10_000, round(seconds / max(once, 1e-7))))


@lru_cache(maxsize=1)
def _job(path: Path) -> Job:
    with path.open("rb") as stream:
        job: Job = pickle.load(stream)
    return job


@lru_cache(maxsize=1)
def _device(spec: DeviceSpec, target: TargetSpec) -> Device:
    return open_device(spec, target)


def _forget_device() -> None:
    """Let the next candidate connect anew."""
    _default.cache_clear()
    _device.cache_clear()


@lru_cache(maxsize=1)
def _default(job_file: Path, device: DeviceSpec) -> Kernel:
    """The task's default kernel, ready to run."""
    job = _job(job_file)
    return _kernel(job, {}, _device(device, job.target))


def _kernel(job: Job, schedule: Schedule, device: Device) -> Kernel:
    """Compile, load and check one kernel."""
    context = job.context(schedule)
    lowering = OPERATORS[job.operator].lower(context)
    function = lowering.function.with_attr("global_symbol", "main")
    module = tvm.IRModule({"main": function})
    executable = tvm.compile(module, target=tvm_target(job.target))
    arguments: Sequence[np.ndarray] = [
        job.tensors[a] if isinstance(a, str) else a for a in lowering.arguments
    ]
    kernel = device.load(executable, arguments, job.expected)
    differing = int(np.count_nonzero(kernel.result() != job.expected))
    if differing:
        size = job.expected.size
        raise WrongResultError(f"{differing} of {size} values differ from the reference")
    return kernel
