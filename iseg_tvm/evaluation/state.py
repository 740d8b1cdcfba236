"""An evaluation half done, in one JSON file that another run of the same one continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

_FORMAT = "iseg-tvm evaluation state"
_VERSION = 1
_ELSE = "name another file, or delete this one to start again"


@dataclass(frozen=True)
class State:
    """What has been counted so far; never changed, so that an interrupt finds it whole.

    Attributes
    ----------
    done : samples seen, skipped ones included
    skipped : name and reason of the samples that could not be read
    confusion : ndarray, shape (classes, classes), int64
    """

    done: int
    skipped: tuple[tuple[str, str], ...]
    confusion: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> State:
        """Nothing counted."""
        return cls(0, (), np.zeros((num_classes, num_classes), np.int64))

    def counted(self, confusion: npt.NDArray[np.int64]) -> State:
        """One sample more, with its confusion matrix."""
        return State(self.done + 1, self.skipped, self.confusion + confusion)

    def without(self, name: str, reason: str) -> State:
        """One sample more, which could not be read."""
        return State(self.done + 1, (*self.skipped, (name, reason)), self.confusion)


def save_state(path: Path, identity: Mapping[str, Any], state: State) -> None:
    """Write a state, atomically.

    Parameters
    ----------
    path : Path
    identity : mapping
        JSON values that a run must share to continue this one: model, data set, settings.
    state : State

    Raises
    ------
    IsegError
        The file cannot be written.
    """
    values = {
        "format": _FORMAT,
        "version": _VERSION,
        "identity": dict(identity),
        "done": state.done,
        "skipped": state.skipped,
        "confusion": state.confusion.tolist(),
    }
    with atomic_write(path) as stream:
        stream.write(json.dumps(values).encode())


def load_state(path: Path, identity: Mapping[str, Any], num_classes: int) -> State:
    """Read a state; an empty one if there is no file yet.

    Raises
    ------
    IsegError
        The file is damaged or something else, or belongs to another model, data set or settings.
    """
    if not path.exists():
        return State.empty(num_classes)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error.strerror or error}", _ELSE) from error
    except ValueError:
        values = None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise IsegError(f"{path} is no state of an evaluation", _ELSE)
    if values.get("version") != _VERSION:
        raise IsegError(f"{path} has version {values.get('version')}, not {_VERSION}", _ELSE)
    try:
        found = dict(values["identity"])
        confusion = np.array(values["confusion"], np.int64)
        skipped = tuple((str(name), str(reason)) for name, reason in values["skipped"])
        state = State(int(values["done"]), skipped, confusion)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise IsegError(f"{path} is damaged", _ELSE) from None
    for key, value in json.loads(json.dumps(identity)).items():
        if found.get(key) != value:
            raise IsegError(f"{path} belongs to another {key.replace('_', ' ')}", _ELSE)
    if confusion.shape != (num_classes, num_classes) or state.done < 0 or (confusion < 0).any():
        raise IsegError(f"{path} is damaged", _ELSE)
    return state
