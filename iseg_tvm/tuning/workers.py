"""Worker processes that measure candidates: a crash costs one trial, not the run.

LLVM ends the process on code it cannot generate, and a wrong kernel may do so too. Workers are
TVM's ``PopenWorker``: persistent, killed at a time limit, started again after a crash.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from tvm.support.popen_pool import PopenWorker

from iseg_tvm.errors import IsegError
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning.device import DeviceSpec
from iseg_tvm.tuning.measure import Outcome, Timing, describe_device, measure
from relay_ops.operator import Schedule

Report = Callable[[str], None]

_CHANCES = 3
"""Devices that one candidate may be the last on."""

_RETRY_SECONDS, _GONE_SECONDS = 3.0, 120.0
"""Pause before a lost device is asked for again; time after which nobody is expected to return."""


class Worker:
    """One process and its device."""

    def __init__(self, device: DeviceSpec, timeout: float) -> None:
        self.device, self.timeout = device, timeout
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives with the worker
        self._process = PopenWorker(stdout=self._errors, stderr=self._errors)

    def measure(self, job_file: Path, schedule: Schedule, timing: Timing) -> Outcome:
        """Measure one candidate; a crash or a time-out is an outcome too."""
        return self._call(measure, job_file, dict(schedule), self.device, timing)

    def describe(self, target: TargetSpec) -> Outcome:
        """Open the device and say what it is."""
        return self._call(describe_device, self.device, target)

    def _call(self, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
        self._errors.truncate(0)
        try:
            self._process.send(function, arguments, timeout=self.timeout)
            outcome: Outcome = self._process.recv()
        except TimeoutError:
            return Outcome(error=f"no result after {self.timeout:g} s")
        except ChildProcessError:
            return Outcome(error=f"the process died: {self._last_line()}")
        return outcome

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._errors.close()

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip("\0").strip().splitlines()
        return lines[-1].strip() if lines else "without a message"


class Workers:
    """Measures batches on one or more devices at once.

    Parameters
    ----------
    devices : one worker each
    target : what is compiled for
    timeout : seconds that a candidate may take in all
    report : told about lost devices
    """

    def __init__(
        self, devices: Sequence[DeviceSpec], target: TargetSpec, *, timeout: float,
        timing: Timing, report: Report,
    ) -> None:  # fmt: skip
        self.target, self.timing, self.report = target, timing, report
        self._all = [Worker(device, timeout) for device in devices]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._all:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(len(self._all))
        self._closing = threading.Event()

    def __enter__(self) -> Workers:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._closing.set()
        for worker in self._all:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    def set_timeout(self, seconds: float) -> None:
        """Change the time that a candidate may take."""
        for worker in self._all:
            worker.timeout = seconds

    def describe(self) -> list[dict[str, Any]]:
        """Open all devices at once; what boards say about themselves, nothing for this machine.

        Raises
        ------
        IsegError
            A board is not what the target is for, or none answers.
        """
        outcomes = list(self._threads.map(lambda worker: worker.describe(self.target), self._all))
        for outcome in outcomes:
            if outcome.fatal:
                raise IsegError(outcome.error or "wrong device")
        if all(outcome.error for outcome in outcomes):
            raise IsegError(outcomes[0].error or "no device")
        return [dict(outcome.description) for outcome in outcomes if outcome.description]

    def measure(
        self, job_file: Path, schedules: Sequence[Schedule], done: Callable[[int, Outcome], None]
    ) -> None:
        """Measure all; ``done(index, outcome)`` is called in this thread after each.

        Raises
        ------
        IsegError
            No device is left, or one is of the wrong kind.
        """
        indices = {
            self._threads.submit(self._one, job_file, schedule): index
            for index, schedule in enumerate(schedules)
        }
        for future in as_completed(indices):
            done(indices[future], future.result())

    def _one(self, job_file: Path, schedule: Schedule) -> Outcome:
        """Measure on the next free device; if that is lost, on another one."""
        for _ in range(_CHANCES):
            worker = self._wait_for_free()
            outcome = worker.measure(job_file, schedule, self.timing)
            if outcome.fatal:
                raise IsegError(outcome.error or "wrong device")
            if not outcome.device_lost:
                self._free.put(worker)
                return outcome
            self.report(f"{worker.device} is lost, its candidate is tried again: {outcome.error}")
            threading.Thread(target=self._recover, args=(worker,), daemon=True).start()
        return Outcome(error=f"{_CHANCES} devices were lost while it was measured")

    def _wait_for_free(self) -> Worker:
        try:
            return self._free.get(timeout=self._all[0].timeout + _GONE_SECONDS)
        except Empty:
            raise IsegError(
                "no device answers any more; what was measured is in the log",
                "when one does, go on with --resume",
            ) from None

    def _recover(self, worker: Worker) -> None:
        """Wait until a lost device answers again, and let it work."""
        while not self._closing.wait(_RETRY_SECONDS):
            outcome = worker.describe(self.target)
            if outcome.error is None:
                self.report(f"{worker.device} is back")
                self._free.put(worker)
                return
