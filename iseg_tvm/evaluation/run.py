"""The loop over a data set: read, predict, count, remember."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import Dataset, UnreadableFileError, read_sample
from iseg_tvm.evaluation.metrics import Metrics, compute_metrics, confusion_matrix
from iseg_tvm.evaluation.state import State, load_state, save_state
from iseg_tvm.evaluation.windows import Engine, Settings, predict

KIND, FORMAT_VERSION = "iseg-tvm evaluation", 1
SAVE_EVERY = 20  # images between two writes of the state

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """Outcome of an evaluation.

    Attributes
    ----------
    confusion : ndarray, shape (classes, classes), int64; rows are the truth
    metrics : Metrics
    images : pictures counted
    skipped : name and reason of the samples that could not be read
    classes : class names
    about : model, data set and settings, JSON values
    """

    confusion: npt.NDArray[np.int64]
    metrics: Metrics
    images: int
    skipped: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    about: dict[str, Any]

    def to_dict(self, *, with_confusion: bool) -> dict[str, Any]:
        """Return JSON values; not-a-number becomes None."""
        metrics = self.metrics
        values: dict[str, Any] = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            **self.about,
            "images": self.images,
            "mean_iou": _number(metrics.mean_iou),
            "pixel_accuracy": _number(metrics.pixel_accuracy),
            "mean_accuracy": _number(metrics.mean_accuracy),
            "classes_in_mean_iou": int(np.count_nonzero(~np.isnan(metrics.iou))),
            "classes": [
                {
                    "index": index,
                    "name": name,
                    "iou": _number(metrics.iou[index]),
                    "accuracy": _number(metrics.accuracy[index]),
                    "pixels": int(metrics.pixels[index]),
                }
                for index, name in enumerate(self.classes)
            ],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
        }
        if with_confusion:
            values["confusion"] = self.confusion.tolist()
        return values


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def evaluate(
    engine: Engine,
    dataset: Dataset,
    settings: Settings,
    *,
    limit: int | None = None,
    state_file: Path | None = None,
    save_every: int = SAVE_EVERY,
    progress: Progress = lambda stage, done, total: None,
) -> Result:
    """Run a model over a data set and count.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    settings : Settings
    limit : int, optional
        Only this many samples, the first ones.
    state_file : Path, optional
        Continue from this file if it exists; written every `save_every` samples, at the end and
        when interrupted. `limit` may differ from the earlier run's.
    save_every : int, optional
    progress : callable, optional
        Called with a stage, the samples done and their number.

    Returns
    -------
    Result

    Raises
    ------
    IsegError
        The state belongs to something else, a mask does not fit, or no sample could be read.
    """
    total = min(limit or len(dataset.samples), len(dataset.samples))
    num_classes = len(dataset.classes)
    identity = {
        "model": engine.checksum,
        "data_set": dataset.checksum(),
        "protocol_or_window": {**asdict(settings), "upsampling": engine.upsampling},
    }
    state = State.empty(num_classes)
    if state_file is not None:
        state = load_state(state_file, identity, num_classes)
        if state.done > total:
            raise IsegError(
                f"{state_file} has {state.done} samples already, and {total} are asked for",
                "raise --limit, or name another file",
            )
        save_state(state_file, identity, state)  # a file that cannot be written is refused now
    try:
        for sample in dataset.samples[state.done : total]:
            progress("evaluating", state.done, total)
            try:
                photo, target = read_sample(sample)
            except UnreadableFileError as error:
                state = state.without(sample.name, error.message)
            else:
                found = predict(engine, photo, settings)
                state = state.counted(confusion_matrix(found, target, num_classes))
            if state_file is not None and state.done % save_every == 0:
                save_state(state_file, identity, state)
    except KeyboardInterrupt:
        if state_file is not None:
            save_state(state_file, identity, state)
        raise
    progress("evaluating", state.done, total)
    if state_file is not None:
        save_state(state_file, identity, state)
    images = state.done - len(state.skipped)
    if not images:
        raise IsegError(
            f"none of the {state.done} samples could be read; the first: {state.skipped[0][1]}",
            "check --root",
        )
    about = {
        engine.kind: engine.path,
        "checksum": engine.checksum,
        "dataset": dataset.name,
        "root": str(dataset.root),
        "split": dataset.split or None,
        "samples": len(dataset.samples),
        **{key: value for key, value in asdict(settings).items() if key != "max_ratio"},
        "upsampling": engine.upsampling,
    }
    return Result(
        confusion=state.confusion,
        metrics=compute_metrics(state.confusion),
        images=images,
        skipped=state.skipped,
        classes=dataset.classes,
        about=about,
    )
