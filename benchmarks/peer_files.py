"""Model files for the other runtimes, in the forms that are fastest here, kept in a cache folder.

ONNX Runtime: attention as its fused operator, the transformers optimizer's fusions, then dynamic or
static (QDQ, uint8 activations, int8 weights a channel) quantization. OpenVINO: the plain graph,
whose attention it fuses itself, and NNCF's quantization in transformer mode. All static
quantization is calibrated with the one photograph that ours is.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import export, models
from benchmarks.provenance import version
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_dir

PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf", "torch", "timm")
_SOURCES = ("iseg_tvm/models", "benchmarks/export.py", "benchmarks/peer_files.py", "demo/photo.jpg")


def reference(name: str, form: str, cache: Path) -> np.ndarray:
    """Return the class map of the float PyTorch model, uint8 (H, W)."""

    def write(path: Path) -> None:
        with torch.inference_mode():
            classes = export.class_map_model(name, form)(export.normalised_photo())
        np.save(path, classes.numpy())

    return np.asarray(np.load(_cached(_folder(name, form, cache) / "reference.npy", write)))


def photo_file(cache: Path, size: tuple[int, int] = models.SIZE) -> Path:
    """Return the file with the uint8 photograph that our library is given."""

    def write(path: Path) -> None:
        np.save(path, models.photo(size))

    height, width = size
    return _cached(cache / f"photo-{height}x{width}-{models.digest(['demo/photo.jpg'])}.npy", write)


def image_file(cache: Path) -> Path:
    """Return the file with the normalised image that all float runtimes are given."""

    def write(path: Path) -> None:
        np.save(path, export.normalised_photo().numpy())

    return _cached(cache / f"image-{models.digest(_SOURCES)}.npy", write)


def peer_file(kind: str, name: str, form: str, cache: Path) -> Path:
    """Return the file of one kind (``plain``, ``fused``, ``dynamic``, ``qdq``, ``nncf``).

    Raises
    ------
    IsegError
        A package of the extra ``bench`` is missing.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            hint = "install the other runtimes: pip install 'iseg-tvm[host,bench]'"
            raise IsegError(f"the package {package} is not installed", hint)
    suffix = ".xml" if kind == "nncf" else ".onnx"
    path = _folder(name, form, cache) / f"{kind}{suffix}"
    return _cached(path, lambda target: _WRITERS[kind](name, form, cache, target))


def _plain(name: str, form: str, _cache: Path, target: Path) -> None:
    export.export_onnx(name, form, target, fused=False)


def _fused(name: str, form: str, _cache: Path, target: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    exported = target.with_name("exported.onnx")
    export.export_onnx(name, form, exported, fused=True)
    encoder = models.config(name, l2_norm=False).encoder
    # Level 0: fusions in Python; ONNX Runtime's own follow whenever the file is loaded.
    optimized = optimize_model(
        str(exported), "vit", encoder.num_heads, encoder.embed_dim, opt_level=0
    )
    _declare_fused_outputs(optimized.model)
    optimized.save_model_to_file(str(target))
    exported.unlink()


def _declare_fused_outputs(model: Any) -> None:
    """State the type of each fused operator's result: the quantizer skips what it cannot infer."""
    from onnx import TensorProto, helper

    known = {value.name for value in model.graph.value_info}
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.output[0] not in known:
            value = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
            model.graph.value_info.append(value)


# Shapes stop being known at the fused attention; everything that is quantized is float32.
_FLOAT_TENSORS = {"DefaultTensorType": 1}


def _dynamic(name: str, form: str, cache: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        peer_file("fused", name, form, cache),
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options=_FLOAT_TENSORS,
    )


def _qdq(name: str, form: str, cache: Path, target: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Photo(CalibrationDataReader):
        """The one calibration image."""

        def __init__(self) -> None:
            self.waiting = [{"image": np.load(image_file(cache))}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next image, or None."""
            return self.waiting.pop() if self.waiting else None

    quantize_static(
        peer_file("fused", name, form, cache),
        target,
        Photo(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        extra_options=_FLOAT_TENSORS,
    )


def _nncf(name: str, form: str, cache: Path, target: Path) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(peer_file("plain", name, form, cache))
    images = nncf.Dataset([np.load(image_file(cache))])
    quantized = nncf.quantize(
        model, images, model_type=nncf.ModelType.TRANSFORMER, subset_size=1
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


_WRITERS: dict[str, Callable[[str, str, Path, Path], None]] = {
    "plain": _plain,
    "fused": _fused,
    "dynamic": _dynamic,
    "qdq": _qdq,
    "nncf": _nncf,
}


@contextmanager
def _no_log() -> Iterator[None]:
    """Silence the exporters; what they made is checked by its class map."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _folder(name: str, form: str, cache: Path) -> Path:
    return cache / f"{name}-{form}-{models.digest(_SOURCES, *map(version, PACKAGES))}"


def _cached(path: Path, write: Callable[[Path], None]) -> Path:
    """Return `path` inside a folder of its own, written by `write` unless it is there."""
    folder = path.with_suffix("")
    if not (folder / path.name).is_file():
        with (
            atomic_dir(folder, marker=path.name) as temporary,
            warnings.catch_warnings(),
            _no_log(),
        ):
            warnings.simplefilter("ignore")
            write(temporary / path.name)
    return folder / path.name
