"""The training loop: repeatable, interruptible, resumable."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.models.weights import read_weight_file
from iseg_tvm.models.windows import window_scores
from iseg_tvm.training.data import Batch, Batches
from iseg_tvm.training.model import QatSegmenter
from iseg_tvm.training.options import TrainOptions

Report = Callable[[int, float, float], None]
"""Called after each step with the steps done, the step's loss and the seconds of all steps."""

_SCALE_RATE = 10.0  # logarithms of scales move by tenths, weights by hundredths
_FORMAT = "iseg-tvm qat state 1"


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate of a step: linear warm-up over 5 %, then half a cosine down to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def loss_of(scores: Tensor, batch: Batch, teacher: Tensor | None, options: TrainOptions) -> Tensor:
    """Cross entropy with the labels, and with the float model's opinion.

    Parameters
    ----------
    scores : (B, classes, rows, columns), of the integer model
    batch : with the labels' shares
    teacher : the float model's scores, of the same shape; None if the options want no distillation
    options : TrainOptions
    """
    logs = (options.sharpness * scores).log_softmax(dim=1)
    shares = batch.shares.to(logs)
    labelled = -(shares * logs).sum() / shares.sum().clamp(min=1.0)
    if teacher is None:
        return labelled
    wanted = (options.sharpness * teacher.to(logs)).softmax(dim=1)
    patches = logs.numel() // logs.shape[1]
    distilled = functional.kl_div(logs, wanted, reduction="sum") / patches
    return (1 - options.distill) * labelled + options.distill * distilled


def train(
    student: QatSegmenter,
    teacher: Segmenter,
    batches: Batches,
    options: TrainOptions,
    *,
    state_file: Path,
    identity: Mapping[str, Any],
    resume: bool = False,
    report: Report = lambda step, loss, seconds: None,
) -> float:
    """Fine-tune ``student`` in place.

    Parameters
    ----------
    student : QatSegmenter
    teacher : Segmenter
        The float model, on the same device.
    batches : Batches
    options : TrainOptions
    state_file : Path
        Written whole every ``options.save_every`` steps and at the end; a killed run loses no more.
    identity : mapping
        JSON values that a resumed run must share.
    resume : bool, optional
        Continue from `state_file`. The result is that of an uninterrupted run.
    report : callable, optional

    Returns
    -------
    float
        Seconds spent in all steps, those before a resumption included.

    Raises
    ------
    IsegError
        Nothing to resume or a state of something else, unreadable data, or a loss that is not
        finite.
    """
    optimizer = _optimizer(student)
    start, spent = 0, 0.0
    if resume:
        start, spent = _restore(state_file, identity, student, optimizer)
    teacher.eval().requires_grad_(False)
    device = student.site("encoder.norm").gamma.device
    began = time.monotonic() - spent
    for step in range(start, options.steps):
        loss = _step(student, teacher, batches.draw(step), optimizer, step, options, device)
        seconds = time.monotonic() - began
        report(step + 1, loss, seconds)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            _save(state_file, identity, student, optimizer, step + 1, seconds)
    student.refresh()
    return time.monotonic() - began


def _step(
    student: QatSegmenter,
    teacher: Segmenter,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    step: int,
    options: TrainOptions,
    device: torch.device,
) -> float:
    """One optimizer step; returns its loss."""
    student.refresh()
    images = batch.images.to(device)
    found = student(images, batch.place).transpose(1, 2).unflatten(2, batch.shares.shape[2:])
    opinion = None
    if options.distill > 0:
        with torch.no_grad():
            opinion = window_scores(teacher, images, batch.place)
    loss = loss_of(found, batch, opinion, options)
    if not torch.isfinite(loss):
        raise IsegError(f"the loss of step {step + 1} is not finite", "choose a smaller --lr")
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * learning_rate(step, options.steps, options.rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _optimizer(student: QatSegmenter) -> torch.optim.Adam:
    """Adam; logarithms of scales learn faster than weights."""
    scales = [p for name, p in student.named_parameters() if ".log_" in name]
    others = [p for name, p in student.named_parameters() if ".log_" not in name]
    groups = [{"params": others, "factor": 1.0}, {"params": scales, "factor": _SCALE_RATE}]
    return torch.optim.Adam(groups, lr=1e-3, betas=(0.9, 0.98))


def _save(
    path: Path,
    identity: Mapping[str, Any],
    student: QatSegmenter,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "format": _FORMAT,
        "identity": dict(identity),
        "model": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    buffer = io.BytesIO()  # torch.save reports a full disk as an error of its own
    torch.save(state, buffer)
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def _restore(
    path: Path,
    identity: Mapping[str, Any],
    student: QatSegmenter,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float]:
    """Load a state; returns its step and seconds."""
    if not path.is_file():
        raise IsegError(f"{path} does not exist", "start without --resume")
    state = read_weight_file(path)
    if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
        raise IsegError(f"{path} is no state of a training", "start without --resume")
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise IsegError(
                f"{path} belongs to another {key.replace('_', ' ')}",
                "give the flags of the first run, or start without --resume",
            )
    student.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
