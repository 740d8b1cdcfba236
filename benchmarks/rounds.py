"""Interleaved measurement: every engine waits in its own process, and they take turns."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.engines import Engine
from benchmarks.models import ROOT
from iseg_tvm.errors import IsegError

TURN_SECONDS, TURN_RUNS = 0.4, 4
_PAUSE_S = 0.03  # threads of the engine before go to sleep


@dataclass(frozen=True)
class Input:
    """What one engine is given.

    Attributes
    ----------
    engine, path, image : the engine, its model file and its image file
    threads : of the engine
    reference : class map of the float model in the form that the engine computes; None: its
        agreement is not checked
    """

    engine: Engine
    path: Path
    image: Path
    threads: int
    reference: np.ndarray | None = None


class Worker:
    """A running process of `benchmarks.worker`.

    Attributes
    ----------
    classes : class map of the first run, uint8 (H, W)
    load_s : seconds from the file to an engine that is ready
    peak_memory_bytes : largest resident size so far
    """

    def __init__(self, given: Input, folder: Path) -> None:
        self.engine = given.engine
        classes = folder / f"{given.engine.name}.npy"
        arguments = {
            "runtime": given.engine.runtime,
            "path": str(given.path),
            "image": str(given.image),
            "threads": given.threads,
            "hint": given.engine.hint,
            "classes": str(classes),
        }
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(arguments)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            ready = self._answer()
        except IsegError:
            self.close()
            raise
        self.load_s: float = ready["load_s"]
        self.peak_memory_bytes: int | None = ready["peak_memory_bytes"]
        self.classes = np.load(classes)

    def turn(self, most: int) -> list[float]:
        """Milliseconds of the runs of one turn, `most` at most."""
        assert self._process.stdin is not None
        print(
            json.dumps({"seconds": TURN_SECONDS, "most": most}),
            file=self._process.stdin,
            flush=True,
        )
        answer = self._answer()
        self.peak_memory_bytes = answer["peak_memory_bytes"]
        times: list[float] = answer["times_ms"]
        return times

    def cpu_s(self) -> float:
        """Processor seconds of the process so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise IsegError(
                f"{self.engine.name}: its process ended with status {status}",
                "its own message stands above",
            )
        return json.loads(line)


def measure(
    inputs: Sequence[Input],
    rounds: int,
    progress: Callable[[str, int, int], None],
    runs: int = TURN_RUNS,
) -> dict[str, Any]:
    """Load all engines, check them, and let them take turns.

    Parameters
    ----------
    inputs : engines with their files
    rounds : turns of every engine
    progress : told of each stage
    runs : most timed runs of a turn

    Returns
    -------
    dict
        ``engines`` (name to figures) and ``foreign_cores`` (mean number of processors that other
        processes used meanwhile).

    Raises
    ------
    IsegError
        An engine does not start, or its class map is not the float model's within its bound.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iseg-peers-")))
        workers, agreements = [], {}
        for done, given in enumerate(inputs):
            progress("loading", done, len(inputs))
            worker = Worker(given, folder)
            stack.callback(worker.close)
            workers.append(worker)
            agreements[given.engine.name] = check_agreement(worker, given.reference)
        times: dict[str, list[list[float]]] = {w.engine.name: [] for w in workers}
        with foreign_load(workers) as foreign:
            for number in range(rounds):
                progress("measuring", number, rounds)
                for worker in workers:
                    times[worker.engine.name].append(worker.turn(runs))
                    time.sleep(_PAUSE_S)
        progress("measuring", rounds, rounds)
        engines = {
            worker.engine.name: {
                "turns_ms": times[worker.engine.name],
                "agreement": agreements[worker.engine.name],
                "load_s": worker.load_s,
                "peak_memory_bytes": worker.peak_memory_bytes,
            }
            for worker in workers
        }
    return {"engines": engines, "foreign_cores": foreign["cores"]}


def check_agreement(worker: Worker, reference: np.ndarray | None) -> float | None:
    """Share of pixels with the float model's class.

    Raises
    ------
    IsegError
        It is below the engine's bound: another graph would be timed.
    """
    if reference is None:
        return None
    if worker.classes.shape != reference.shape:
        raise IsegError(
            f"{worker.engine.name} returns {worker.classes.shape}, not {reference.shape}"
        )
    agreement = float((worker.classes == reference).mean())
    if agreement < worker.engine.min_agreement:
        raise IsegError(
            f"{worker.engine.name} agrees with the float model on {agreement:.1%} of the pixels",
            f"at least {worker.engine.min_agreement:.1%} are expected: its graph is another one",
        )
    return agreement


@contextmanager
def foreign_load(workers: Sequence[Worker]) -> Iterator[dict[str, float]]:
    """Yield a dictionary whose ``cores`` is filled in at the end."""

    def busy() -> float:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = sum(psutil.Process().cpu_times()[:2]) + sum(w.cpu_s() for w in workers)
        return sum(times[:7]) - idle - own

    result: dict[str, float] = {}
    start, before = time.perf_counter(), busy()
    yield result
    result["cores"] = max(0.0, (busy() - before) / (time.perf_counter() - start))
