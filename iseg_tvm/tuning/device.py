"""Where candidates run: in the worker's own process, or on a board behind a tracker."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm

from iseg_tvm.errors import IsegError
from iseg_tvm.linking import export_library
from iseg_tvm.network import Address
from iseg_tvm.remote import errors
from iseg_tvm.remote.board import RemoteBoard, connect_tracker
from iseg_tvm.runtime import set_num_threads
from iseg_tvm.targets import TargetSpec

_GARBAGE = 77
"""Results start as this, so that a kernel that leaves values out is found."""

_ENTRY = "main"


class DeviceLostError(IsegError):
    """The device is gone, or is not what it should be.

    Parameters
    ----------
    fatal : waiting or another device of the same kind will not help
    """

    def __init__(self, message: str, hint: str = "", *, fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.fatal = fatal


class Kernel(Protocol):
    """A compiled kernel with its arguments."""

    def result(self) -> np.ndarray:
        """Run once and return the output."""

    def seconds(self, calls: int) -> float:
        """Mean time of one of so many calls."""


class Device(Protocol):
    """Loads kernels."""

    def load(self, executable: Any, arguments: Sequence[np.ndarray], like: np.ndarray) -> Kernel:
        """Load a compiled ``main`` that takes ``arguments`` and a result of the form ``like``."""

    def describe(self) -> dict[str, Any]:
        """What runs the kernels, as JSON values for the log."""


@dataclass(frozen=True)
class DeviceSpec:
    """Which device; small, hashable, sent with every candidate.

    Attributes
    ----------
    threads : threads that a kernel may use in this process; None: what TVM takes by itself
    tracker, key : where to get a board, and which; None: this process is the device
    call_seconds : longest time of one call on a board
    wait_seconds : how long to wait for a free board
    number : tells workers apart that ask for equal boards
    """

    threads: int | None = None
    tracker: Address | None = None
    key: str = ""
    call_seconds: float = 60.0
    wait_seconds: float = 60.0
    number: int = 1

    def __str__(self) -> str:
        """Name for messages."""
        if self.tracker is None:
            return "this machine"
        return f"board {self.number} of {self.key} at {self.tracker}"


def open_device(spec: DeviceSpec, target: TargetSpec) -> Device:
    """Device of a specification, found fit for the target.

    Raises
    ------
    DeviceLostError
        No board answers, or it is not what ``target`` is for.
    """
    if spec.tracker is not None:
        return BoardDevice(spec, spec.tracker, target)
    if spec.threads is not None:
        set_num_threads(spec.threads)
    return LocalDevice()


class LocalDevice:
    """Runs kernels in this process."""

    def load(self, executable: Any, arguments: Sequence[np.ndarray], like: np.ndarray) -> Kernel:
        """Return a kernel ready to run."""
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]
        out = tvm.runtime.tensor(np.full(like.shape, _GARBAGE, dtype=like.dtype))
        return LocalKernel(executable.jit(), [*tensors, out])

    def describe(self) -> dict[str, Any]:
        """Nothing: the log names this machine anyway."""
        return {}


class LocalKernel:
    """A kernel in this process."""

    def __init__(self, module: Any, tensors: Sequence[Any]) -> None:
        self.module, self.tensors = module, tensors

    def result(self) -> np.ndarray:
        """Run once and return the output."""
        self.module[_ENTRY](*self.tensors)
        return np.asarray(self.tensors[-1].numpy())

    def seconds(self, calls: int) -> float:
        """Mean time of one of so many calls."""
        timer = self.module.time_evaluator(_ENTRY, tvm.cpu(), number=calls, repeat=1)
        return float(timer(*self.tensors).results[0])


class BoardDevice:
    """Runs kernels on a board; the host compiles and links.

    Raises
    ------
    DeviceLostError
        As `open_device`.
    """

    def __init__(self, spec: DeviceSpec, tracker: Address, target: TargetSpec) -> None:
        self.spec, self.target, self._numbers = spec, target, itertools.count()
        with _lost_if_gone():
            self.board: RemoteBoard = connect_tracker(
                tracker, spec.key, wait_seconds=spec.wait_seconds
            )
            self.board.check_target(target)

    def load(self, executable: Any, arguments: Sequence[np.ndarray], like: np.ndarray) -> Kernel:
        """Link, upload, load; return a kernel ready to run."""
        garbage = np.full(like.shape, _GARBAGE, dtype=like.dtype)
        with tempfile.TemporaryDirectory(prefix="iseg-") as folder:
            # Overwriting a library that is loaded would crash the board's process.
            path = Path(folder) / f"kernel_{next(self._numbers)}.so"
            export_library(executable, self.target, path)
            with _lost_if_gone():
                module = self.board.load(path)
                tensors = [self.board.tensor(np.ascontiguousarray(a)) for a in arguments]
                tensors.append(self.board.tensor(garbage))
        return BoardKernel(self.board, module, tensors, self.spec.call_seconds)

    def describe(self) -> dict[str, Any]:
        """Return the board's identity."""
        return self.board.identity.to_dict()


class BoardKernel:
    """A kernel on a board.

    Raises
    ------
    DeviceLostError
        From its methods: the board vanished.
    BoardError
        From its methods: the kernel crashed, failed or took too long.
    """

    def __init__(
        self, board: RemoteBoard, module: Any, tensors: Sequence[Any], call_seconds: float
    ) -> None:
        self.board, self.module, self.tensors = board, module, tensors
        self.call_seconds = call_seconds

    def result(self) -> np.ndarray:
        """Run once and return the output."""
        with _lost_if_gone():
            self.board.call(self.module, _ENTRY, self.tensors, self.call_seconds)
            return self.board.numpy(self.tensors[-1])

    def seconds(self, calls: int) -> float:
        """Mean time of one of so many calls, taken on the board."""
        with _lost_if_gone():
            times = self.board.time(
                self.module, _ENTRY, self.tensors, number=calls, repeat=1,
                seconds=self.call_seconds,
            )  # fmt: skip
        return times[0]


@contextmanager
def _lost_if_gone() -> Iterator[None]:
    """Turn errors that are not the kernel's fault into `DeviceLostError`."""
    try:
        yield
    except errors.WrongBoard as error:
        raise DeviceLostError(error.message, error.hint, fatal=True) from error
    except (errors.BoardLost, errors.NoBoard, errors.TrackerUnreachable) as error:
        raise DeviceLostError(error.message, error.hint) from error
