"""The quantized model: integer tensors, integer scalars and configuration in one safetensors file.

Tensor names (D width, H heads, C classes, K inner size; every linear-like layer ``L`` has
``L.weight`` int8 (N, K) in [-127, 127], ``L.bias`` int32 (N,), ``L.multiplier`` int16 (N,),
``L.shift`` int8 (N,)):

* ``encoder.patch_embed.*`` (K ordered row, column, channel), ``encoder.pos_embed`` int16
  (gh * gw, D) at the grid of ``config.image_size``, ``encoder.tokens`` int16 (1 or 2, D): class
  (and distillation) token with its position embedding added
* per block ``B`` = ``encoder.blocks.i`` or ``decoder.blocks.i``: ``B.norm1.gamma`` int16 (D,),
  ``B.norm1.beta`` int32 (D,), ``B.qkv.*``, ``B.attention.exp_multiplier`` / ``.out_multiplier``
  int16 (H,), ``B.attention.exp_shift`` / ``.out_shift`` int8 (H,), ``B.proj.*``, ``B.norm2.*``,
  ``B.fc1.*``, ``B.activation.table`` int8 (G, 256) with G = 1 or, if every 64 hidden units have
  their own, ceil(hidden / 64), ``B.fc2.*``
* ``encoder.norm.*``; linear decoder: ``decoder.head.*``; mask decoder: ``decoder.proj_dec.*``,
  ``decoder.cls_emb`` int16 (C, D), ``decoder.norm.*``, ``decoder.proj_patch.*``,
  ``decoder.proj_classes.*``, ``decoder.class_norm.*`` (only with ``l2_norm``),
  ``decoder.masks.multiplier`` / ``.shift`` (C,), ``decoder.mask_norm.*`` (C,)

Scalars (Python integers): ``L.post_shift`` of layers with an int8 result (int16 results use 0),
``<norm>.eps`` and ``<norm>.shift``, ``B.attention.fraction_bits`` / ``.post_shift``,
``B.skip_shift1`` / ``B.skip_shift2`` of the two residual additions.

Version 1 of the format had one table a block, int8 (256,); it is read as (1, 256).

Needs numpy and safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iseg_tvm.artifact_schema import schema_problem
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write
from iseg_tvm.models.config import SegmenterConfig

FORMAT = "iseg-tvm quantized model"
VERSION = 2

_MAKE_ONE = "make one with `python -m iseg_tvm.quantize`"
_INTEGER_TYPES = ("I8", "I16", "I32")  # names of safetensors
_POLYNOMIALS = {name: name for name in ("quadratic", "linear")}


@dataclass(frozen=True)
class QuantizedModel:
    """An integer-only Segmenter.

    Attributes
    ----------
    config : architecture; ``config.image_size`` is the grid of the stored position embedding
    tensors : name -> int8 / int16 / int32 array (see the module docstring)
    scalars : name -> integer
    polynomial : ``quadratic`` or ``linear``, the attention's shift exponential
    input_size : (height, width) in pixels of the uint8 image that it will be run on
    classes : class names, or empty
    palette : RGB triples, or empty
    provenance : how it was made (observer, calibration images, versions); free-form JSON
    """

    config: SegmenterConfig
    tensors: Mapping[str, np.ndarray]
    scalars: Mapping[str, int]
    input_size: tuple[int, int]
    polynomial: str = "quadratic"
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad(self) -> tuple[int, int, int]:
        """Pixel that stands for a normalised 0, used where the image is padded."""
        r, g, b = (round(255 * m) for m in self.config.encoder.mean)
        return r, g, b

    def with_input_size(self, height: int, width: int) -> QuantizedModel:
        """The same model for another image size (position embedding resized when it is run)."""
        if height < 1 or width < 1:
            raise IsegError(f"image size {height}x{width} is empty", "give two positive numbers")
        return replace(self, input_size=(height, width))


def save_model(model: QuantizedModel, path: str | Path) -> Path:
    """Write ``model`` to one file, atomically; returns the path.

    Raises
    ------
    IsegError
        If the file cannot be written; nothing is left behind.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.config.to_dict(),
        "scalars": dict(model.scalars),
        "input_size": list(model.input_size),
        "polynomial": model.polynomial,
        "classes": list(model.classes),
        "palette": [list(c) for c in model.palette],
        "provenance": dict(model.provenance),
    }
    tensors = {name: np.ascontiguousarray(t) for name, t in model.tensors.items()}
    with atomic_write(Path(path)) as stream:
        stream.write(save(tensors, metadata={"iseg": json.dumps(header)}))
    return Path(path)


def load_model(path: str | Path) -> QuantizedModel:
    """Read a file of :func:`save_model`.

    Raises
    ------
    IsegError
        Missing, damaged, foreign or newer file, or one whose tensors do not fit its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise IsegError(f"{path}: no such model file", _MAKE_ONE)
    try:
        with safe_open(path, framework="numpy") as stream:
            header = _read_header(path, stream.metadata() or {})
            tensors = {name: _read_tensor(path, stream, name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise IsegError(
            f"{path}: damaged or not a safetensors file ({error})", "quantize the model again"
        ) from None
    if header["version"] == 1:
        tensors = {name: _of_version_1(name, tensor) for name, tensor in tensors.items()}
    try:
        height, width = (_integer(v) for v in header["input_size"])
        model = QuantizedModel(
            config=SegmenterConfig.from_dict(header["model"]),
            tensors=tensors,
            scalars={str(k): _integer(v) for k, v in header["scalars"].items()},
            input_size=(height, width),
            polynomial=_POLYNOMIALS[header["polynomial"]],
            classes=tuple(str(c) for c in header["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in header["palette"]),
            provenance=dict(header["provenance"]),
        ).with_input_size(height, width)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IsegError(
            f"{path}: its header lacks or garbles a field ({error!r})", "quantize the model again"
        ) from None
    except IsegError as error:
        raise IsegError(f"{path}: {error}", error.hint) from None
    if problem := schema_problem(model.config, model.tensors, model.scalars):
        raise IsegError(f"{path}: {problem}", "quantize the model again")
    return model


def _integer(value: object) -> int:
    """The value, which must be a JSON integer."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def _read_tensor(path: Path, stream: safe_open, name: str) -> np.ndarray:
    """One tensor, after checking its type (NumPy cannot even represent all of the format's)."""
    kind = stream.get_slice(name).get_dtype()
    if kind not in _INTEGER_TYPES:
        raise IsegError(
            f"{path}: tensor {name} is {kind}, not an integer of 8, 16 or 32 bits",
            "quantize the model again",
        )
    return stream.get_tensor(name)


def _of_version_1(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor as it would be today: tables had no groups."""
    return tensor[None] if name.endswith(".activation.table") else tensor


def _read_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON header, after checking format and version."""
    try:
        header = json.loads(metadata["iseg"])
    except (KeyError, json.JSONDecodeError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise IsegError(f"{path}: not a quantized model of iseg-tvm", _MAKE_ONE)
    if header.get("version") not in range(1, VERSION + 1):
        raise IsegError(
            f"{path}: format version {header.get('version')}, this program reads {VERSION}",
            "update iseg-tvm, or quantize the model again",
        )
    return header
