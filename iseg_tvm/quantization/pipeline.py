"""The way from a float model and calibration images to a quantized model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.activation import ActivationGrid
from iseg_tvm.quantization.calibration import Progress, calibrate
from iseg_tvm.quantization.context import Context, finite_parameters
from iseg_tvm.quantization.conversion import Plan, convert
from iseg_tvm.quantization.equivalence import Equivalence, equivalent, find_equivalence
from iseg_tvm.quantization.options import QuantizeOptions
from iseg_tvm.quantization.refinement import refine
from iseg_tvm.quantization.variety import VARIETY_LEAST, variety

_log = logging.getLogger(__name__)


def quantize(
    model: Segmenter,
    images: Sequence[np.ndarray],
    options: QuantizeOptions | None = None,
    *,
    classes: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    progress: Progress | None = None,
    adjust: Callable[[Plan], None] | None = None,
) -> QuantizedModel:
    """Quantize a float Segmenter after training, without any label.

    Parameters
    ----------
    model : Segmenter
        Any checkpoint; not changed.
    images : sequence of ndarray
        One calibration image or more, uint8 (H, W, 3), RGB, all of the input size.
    options : QuantizeOptions, optional
        The defaults, if absent.
    classes, palette : optional
        Names and colours to store; empty, or one a class.
    progress : callable, optional
        Called with (stage, steps done, steps in total).
    adjust : callable, optional
        Changes the scales inside the blocks before anything is converted.

    Returns
    -------
    QuantizedModel
        Its ``provenance["feature_scale"]`` holds the real value of one step of each of the
        encoder's features, ``provenance["activation_scales"]`` those of each block's table, in and
        out, and the integer of its input that stands for 0.

    Raises
    ------
    IsegError
        No images, images of a wrong type or size, NaN or infinite weights, wrong number of names.
    """
    options = options or QuantizeOptions()
    size = _image_size(images, options.input_size)
    for what, given in (("class names", classes), ("palette colours", palette)):
        if given and len(given) != model.config.num_classes:
            raise IsegError(f"{len(given)} {what} for {model.config.num_classes} classes")
    finite_parameters(model)
    if variety(model.eval(), images) < VARIETY_LEAST:
        _log.warning(
            "warning: the calibration shows this model little: all patches look alike to it; add a "
            "picture with several things in it"
        )
    change = find_equivalence(model, images, options, progress)
    model = equivalent(model, change)
    statistics = calibrate(model, images, progress, groups=options.activation_groups)
    context = Context(model, statistics, options)
    plan = Plan(context, model)
    if adjust is not None:
        adjust(plan)
    features = convert(context, model, plan)
    quantized = QuantizedModel(
        config=model.config,
        tensors=context.tensors,
        scalars=context.scalars,
        input_size=size,
        polynomial=options.polynomial,
        classes=tuple(classes),
        palette=tuple((r, g, b) for r, g, b in palette),
        provenance=_provenance(options, len(images), features, context.activations, change),
    )
    if options.bias_correction or options.rounding == "feedback":
        made = context.requests, plan.norms
        return refine(quantized, *made, model, images, options, progress)
    return quantized


def _provenance(
    options: QuantizeOptions,
    images: int,
    features: np.ndarray,
    activations: Mapping[str, ActivationGrid],
    change: Equivalence,
) -> dict[str, Any]:
    chosen = asdict(options)
    chosen.pop("input_size")  # a field of the model itself
    return {
        "options": chosen,
        "calibration_images": images,
        "feature_scale": features.tolist(),
        "activation_scales": {
            name: [grid.scale.tolist(), grid.scale_out.tolist(), grid.zero.tolist()]
            for name, grid in activations.items()
        },
        **change.to_json(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _image_size(images: Sequence[np.ndarray], wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Check the calibration images; returns their (height, width)."""
    if not len(images):
        raise IsegError("no calibration images", "give at least one photograph")
    height, width = wanted or np.shape(images[0])[:2]
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise IsegError(f"calibration image {i} is no uint8 array")
        if image.shape != (height, width, 3):
            raise IsegError(
                f"calibration image {i} has shape {image.shape}, not {(height, width, 3)}",
                "resize or crop all images to the input size",
            )
    return int(height), int(width)
