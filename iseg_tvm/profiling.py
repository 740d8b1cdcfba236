"""Time of every kernel of a bundle, measured inside whole runs: numpy and TVM's runtime library.

The virtual machine calls back before and after each kernel, so a kernel is timed in its place, with
the caches as its predecessor left them. The two calls add one to three microseconds a kernel.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iseg_tvm.errors import IsegError
from iseg_tvm.runtime import Segmenter, set_num_threads

_BUILTIN = "vm.builtin."  # the virtual machine's own functions: allocation, checks
_RUN = 0  # TVM's VMInstrumentReturnKind::kNoOp


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a bundle, over all its calls in a run.

    Attributes
    ----------
    name : name in the bundle's manifest
    calls : calls in one run
    total_ms : median over the runs of each call's time, added up over the calls
    macs : multiply-accumulates of all calls, 0 for kernels without a matrix product
    """

    name: str
    calls: int
    total_ms: float
    macs: int

    @property
    def gops(self) -> float | None:
        """Billions of operations a second, two a multiply-accumulate; None without a product."""
        return 2 * self.macs / self.total_ms / 1e6 if self.macs else None


@dataclass(frozen=True)
class Profile:
    """Kernels in the order of their first call, and whole runs without the callbacks.

    Attributes
    ----------
    kernels : one record a kernel
    run_ms : times of the virtual machine's ``main``, in the order measured
    threads : threads in use
    """

    kernels: tuple[KernelTime, ...]
    run_ms: tuple[float, ...]
    threads: int

    @property
    def median_ms(self) -> float:
        """Median of the whole runs."""
        return statistics.median(self.run_ms)

    @property
    def kernels_ms(self) -> float:
        """Sum over the kernels."""
        return sum(kernel.total_ms for kernel in self.kernels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a run."""
        return sum(kernel.macs for kernel in self.kernels)


def kernel_macs(name: str) -> int:
    """Multiply-accumulates of one call, from the kernel's name.

    ``<operator>_<rows>x<columns>x<inner>`` is a product; attention, ``..._<rows>x<columns>``, is
    two products of ``rows x rows x head width`` for each head: ``2 rows^2 columns``.
    """
    match = re.search(r"_(\d+(?:x\d+)+)(?:_v\d+)?$", name)
    extents = [int(extent) for extent in match[1].split("x")] if match else []
    if len(extents) == 3:
        return math.prod(extents)
    if len(extents) == 2 and "attention" in name:
        return 2 * extents[0] ** 2 * extents[1]
    return 0


def profile(
    segmenter: Segmenter,
    image: npt.NDArray[np.uint8],
    repeats: int,
    progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Run an image alternately with and without the callbacks.

    Parameters
    ----------
    segmenter : Segmenter
        A loaded bundle.
    image : ndarray, shape (H, W, 3), uint8
        As for `Segmenter.run`.
    repeats : int
        Runs of either kind, after one of each that is not counted.
    progress : callable, optional
        Called with the pairs of runs done and their number, between runs.

    Raises
    ------
    IsegError
        Fewer than one repeat, or an image that does not fit.
    """
    if repeats < 1:
        raise IsegError(f"{repeats} repeats asked for", "ask for at least 1")
    segmenter.run(image)
    observer = _Observer(segmenter)
    observer.run()
    plain, runs = [], []
    for done in range(1, repeats + 1):
        start = time.perf_counter()
        segmenter.run(image)
        plain.append((time.perf_counter() - start) * 1e3)
        runs.append(observer.run())
        if progress is not None:
            progress(done, repeats)
    return Profile(_aggregate(runs), tuple(plain), segmenter.num_threads)


class _Observer:
    """A second virtual machine over the same library, with the callbacks."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.machine = segmenter.new_machine()
        self.machine["set_instrument"](segmenter.packed_function(self._observe))
        self.started = 0.0
        self.times: list[tuple[str, float]] = []

    def run(self) -> list[tuple[str, float]]:
        """Return (kernel, milliseconds) of every call of one run, on `Segmenter.run`'s image."""
        set_num_threads(self.segmenter.num_threads)
        self.times = []
        self.segmenter.run_machine(self.machine)
        return self.times

    def _observe(self, _function: Any, name: str, before: bool, _result: Any, *_: Any) -> int:
        if before:
            self.started = time.perf_counter()
        elif not name.startswith(_BUILTIN):
            self.times.append((str(name), (time.perf_counter() - self.started) * 1e3))
        return _RUN


def _aggregate(runs: Sequence[Sequence[tuple[str, float]]]) -> tuple[KernelTime, ...]:
    """Median of every call over the runs, then the sum over the calls of one kernel."""
    totals: dict[str, list[float]] = {}
    for calls in zip(*runs, strict=True):
        totals.setdefault(calls[0][0], []).append(statistics.median(ms for _, ms in calls))
    return tuple(
        KernelTime(name, len(times), sum(times), len(times) * kernel_macs(name))
        for name, times in totals.items()
    )
