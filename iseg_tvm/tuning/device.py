"""Where candidates run: in the worker's own process, or on a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm

from iseg_tvm.errors import IsegError
from iseg_tvm.runtime import set_num_threads
from iseg_tvm.targets import TargetSpec

_GARBAGE = 77
"""Results start as this, so that a kernel that leaves values out is found."""


class DeviceLostError(IsegError):
    """The device is gone, or is not what it should be.

    Parameters
    ----------
    fatal : waiting or another device of the same kind will not help
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class Kernel(Protocol):
    """A compiled kernel with its arguments."""

    def result(self) -> np.ndarray:
        """Run once and return the output."""

    def seconds(self, calls: int) -> float:
        """Mean time of one of so many calls."""


class Device(Protocol):
    """Loads kernels."""

    def load(
        self, executable: Any, target: TargetSpec, arguments: Sequence[np.ndarray],
        like: np.ndarray,
    ) -> Kernel:  # fmt: skip
        """Load a compiled ``main`` that takes ``arguments`` and a result of the form ``like``."""


@dataclass(frozen=True)
class DeviceSpec:
    """Which device; small, hashable, sent with every candidate.

    Attributes
    ----------
    threads : threads that a kernel may use; None: what TVM takes by itself
    """

    threads: int | None = None


def open_device(spec: DeviceSpec) -> Device:
    """Device of a specification.

    Raises
    ------
    IsegError
        There is none.
    """
    if spec.threads is not None:
        set_num_threads(spec.threads)
    return LocalDevice()


class LocalDevice:
    """Runs kernels in this process."""

    def load(
        self, executable: Any, target: TargetSpec, arguments: Sequence[np.ndarray],
        like: np.ndarray,
    ) -> Kernel:  # fmt: skip
        """Return a kernel ready to run."""
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]
        out = tvm.runtime.tensor(np.full(like.shape, _GARBAGE, dtype=like.dtype))
        return LocalKernel(executable.jit(), [*tensors, out])


class LocalKernel:
    """A kernel in this process."""

    def __init__(self, module: Any, tensors: Sequence[Any]) -> None:
        self.module, self.tensors = module, tensors

    def result(self) -> np.ndarray:
        """Run once and return the output."""
        self.module["main"](*self.tensors)
        return np.asarray(self.tensors[-1].numpy())

    def seconds(self, calls: int) -> float:
        """Mean time of one of so many calls."""
        timer = self.module.time_evaluator("main", tvm.cpu(), number=calls, repeat=1)
        return float(timer(*self.tensors).results[0])
