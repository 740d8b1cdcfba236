"""One run of quantization-aware training, from files to an integer model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import Dataset
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.context import finite_parameters
from iseg_tvm.quantization.equivalence import equivalent, recorded
from iseg_tvm.training.data import Batches
from iseg_tvm.training.loop import Report, train
from iseg_tvm.training.model import QatSegmenter
from iseg_tvm.training.narrow import narrow_weights
from iseg_tvm.training.options import TrainOptions


def fine_tune(
    checkpoint: Segmenter,
    start: QuantizedModel,
    dataset: Dataset,
    options: TrainOptions,
    *,
    state_file: Path,
    device: str = "cpu",
    resume: bool = False,
    report: Report = lambda step, loss, seconds: None,
) -> tuple[QuantizedModel, Mapping[str, str]]:
    """Fine-tune an integer model.

    Parameters
    ----------
    checkpoint : Segmenter
        The float model: the teacher, and where weights start between their integers. It is moved
        to `device` and frozen.
    start : QuantizedModel
        Made from `checkpoint` by post-training quantization.
    dataset : Dataset
    options : TrainOptions
    state_file, resume, report : see `iseg_tvm.training.loop.train`
    device : str, optional
        What PyTorch calls it, such as ``cpu`` or ``cuda:0``.

    Returns
    -------
    (model, skipped) : the integer model, and reasons by name of samples that could not be read

    Raises
    ------
    IsegError
        Models that do not belong together, an unknown device, unreadable data, a state of another
        run.
    """
    if start.config != checkpoint.config:
        raise IsegError(
            "the integer model was made from another checkpoint's architecture",
            "quantize this checkpoint, or leave --model out",
        )
    place = _device(device)
    torch.manual_seed(options.seed)
    parameters = finite_parameters(equivalent(checkpoint, recorded(start)))
    start = narrow_weights(start, parameters, options.levels)
    student = QatSegmenter(start, parameters, options.levels).to(place)
    checkpoint.set_fused_attention(True)
    batches = Batches(
        dataset,
        image_size=checkpoint.config.image_size,
        window=options.window,
        patch=checkpoint.config.encoder.patch_size,
        batch=options.batch,
        zoom=options.zoom,
        seed=options.seed,
    )
    identity = {
        "start": model_checksum(start),
        "data_set": dataset.checksum(),
        "options": _json(options),
    }
    seconds = train(
        student,
        checkpoint.to(place),
        batches,
        options,
        state_file=state_file,
        identity=identity,
        resume=resume,
        report=report,
    )
    record = {**identity, "seconds": round(seconds), "device": device}
    return student.export({"qat": record}), batches.skipped


def model_checksum(model: QuantizedModel) -> str:
    """SHA-256 of a model's integers."""
    digest = hashlib.sha256(repr(sorted(model.scalars.items())).encode())
    for name in sorted(model.tensors):
        digest.update(name.encode() + model.tensors[name].tobytes())
    return digest.hexdigest()


def _json(options: TrainOptions) -> dict[str, Any]:
    """The options that decide the result, as JSON gives them back."""
    values = asdict(options)
    values.pop("save_every")
    return {**values, "window": list(options.window)}


def _device(name: str) -> torch.device:
    """Check that PyTorch can compute there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise IsegError(f"--device {name}: {reason}", "use cpu, or install another torch") from None
    return device
