"""Held-out figures of the demo model.

``python -m demo.evaluate`` measures the shipped float checkpoint, and with ``--model FILE`` an
integer model that was made from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from demo.photo import demo_photo
from demo.photographs import CLASSES, IGNORE
from demo.scenes import scene
from iseg_tvm.artifact import load_model
from iseg_tvm.errors import IsegError
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.models.checkpoint import load_checkpoint
from iseg_tvm.models.segmenter import Segmenter

Segment = Callable[[np.ndarray], np.ndarray]
HELD_OUT_SEEDS = tuple(range(64))
SIZE = (256, 256)


def confusion(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    predicted, truth : numpy.ndarray
        Same shape, integers; pixels whose truth is :data:`demo.photographs.IGNORE` do not count.

    Returns
    -------
    numpy.ndarray
        Shape (classes, classes), int64; row is the true class.
    """
    known = truth != IGNORE
    count = len(CLASSES)
    pairs = truth[known].astype(np.int64) * count + predicted[known]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def iou(counts: np.ndarray) -> dict[str, float | None]:
    """Return intersection over union by class name; None where a class never occurs."""
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    return {
        name: round(float(h / u), 4) if u else None
        for name, h, u in zip(CLASSES, hits, union, strict=True)
    }


def mean_iou(counts: np.ndarray) -> float:
    """Return the mean over the classes that occur."""
    values = [value for value in iou(counts).values() if value is not None]
    return round(float(np.mean(values)), 4)


def held_out_figures(model: Segmenter, seeds: Sequence[int] = HELD_OUT_SEEDS) -> dict[str, Any]:
    """Measure a float model on held-out scenes of 256 x 256 pixels.

    Parameters
    ----------
    model : Segmenter
        The model; left in evaluation mode.
    seeds : sequence of int, optional
        Seeds of the scenes.

    Returns
    -------
    dict
        Mean IoU and IoU by class over all pixels, for class maps that are upsampled by nearest
        neighbour (as the integer model does) and for bilinearly upsampled scores (the paper's).
    """
    model.eval()
    patch = model.config.encoder.patch_size
    totals = {
        name: np.zeros((len(CLASSES), len(CLASSES)), np.int64) for name in ("nearest", "bilinear")
    }
    for seed in seeds:
        image, truth = scene("held_out", seed, SIZE)
        with torch.inference_mode():
            scores = model.forward_scores(model.normalize_uint8(image[None]))
            smooth = functional.interpolate(scores, size=SIZE, mode="bilinear")
        coarse = scores.argmax(1)[0].numpy()
        fine = coarse.repeat(patch, 0).repeat(patch, 1)
        totals["nearest"] += confusion(fine, truth)
        totals["bilinear"] += confusion(smooth.argmax(1)[0].numpy(), truth)
    return {
        "scenes": len(seeds),
        "size": list(SIZE),
        "miou_nearest": mean_iou(totals["nearest"]),
        "miou_bilinear": mean_iou(totals["bilinear"]),
        "iou_nearest": iou(totals["nearest"]),
        "iou_bilinear": iou(totals["bilinear"]),
    }


def scene_figures(segment: Segment, seeds: Sequence[int] = HELD_OUT_SEEDS) -> dict[str, Any]:
    """Measure anything that makes class maps on held-out scenes.

    Parameters
    ----------
    segment : callable
        Maps (256, 256, 3), uint8, RGB, to (256, 256), integers.
    seeds : sequence of int, optional
        Seeds of the scenes.

    Returns
    -------
    dict
        Mean IoU over the classes, and IoU by class, over all pixels.
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for seed in seeds:
        image, truth = scene("held_out", seed, SIZE)
        counts += confusion(segment(image), truth)
    return {
        "scenes": len(seeds),
        "size": list(SIZE),
        "miou_nearest": mean_iou(counts),
        "iou_nearest": iou(counts),
    }


def photo_figures(segment: Segment) -> dict[str, Any]:
    """Measure class maps on the demo photograph, which no training scene shows.

    Parameters
    ----------
    segment : callable
        As for `scene_figures`.

    Returns
    -------
    dict
        Share of the labelled pixels that are right, and IoU of the classes in the photograph.
    """
    image, truth = demo_photo(SIZE[0])
    counts = confusion(segment(image), truth)
    present = [CLASSES[index] for index in np.flatnonzero(counts.sum(1))]
    return {
        "size": list(SIZE),
        "pixel_accuracy": round(float(np.trace(counts) / counts.sum()), 4),
        "iou_nearest": {name: iou(counts)[name] for name in present},
    }


def float_segment(model: Segmenter) -> Segment:
    """Return the class maps of a float model, upsampled by nearest neighbour."""
    patch = model.eval().config.encoder.patch_size

    def segment(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores = model.forward_scores(model.normalize_uint8(image[None]))
        return scores.argmax(1)[0].numpy().repeat(patch, 0).repeat(patch, 1)

    return segment


def integer_segment(file: Path) -> Segment:
    """Return the class maps of a quantized model file."""
    model = load_model(file)
    if model.input_size != SIZE:
        raise IsegError(f"{file} is for {model.input_size} pixels, expected {SIZE}")
    module = IntegerSegmenter(model)
    return lambda image: module(torch.from_numpy(image)).numpy()


def figures(model: Segmenter, seeds: Sequence[int] = HELD_OUT_SEEDS) -> dict[str, Any]:
    """Return the figures of a float model on held-out scenes and on the demo photograph."""
    return {
        "held_out": held_out_figures(model, seeds),
        "photo": photo_figures(float_segment(model)),
    }


def main() -> int:
    """Print the figures of a checkpoint, or of a quantized model, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--model", type=Path, help="a quantized model to measure instead")
    parser.add_argument("--scenes", type=int, choices=range(1, 65), default=64, metavar="N",
                        help="held-out scenes, 1 to 64 (default: %(default)s)")  # fmt: skip
    args = parser.parse_args()
    seeds = HELD_OUT_SEEDS[: args.scenes]
    try:
        if args.model is None:
            found = figures(load_checkpoint(args.checkpoint), seeds)
        else:
            segment = integer_segment(args.model)
            found = {"held_out": scene_figures(segment, seeds), "photo": photo_figures(segment)}
    except IsegError as error:
        sys.stderr.write(f"error: {error.message}\n" + f"hint: {error.hint}\n" * bool(error.hint))
        return 2
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
