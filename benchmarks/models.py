"""The models that are measured, with random weights, made once and kept in a cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from iseg_tvm import images
from iseg_tvm.artifact import QuantizedModel, load_model, save_model
from iseg_tvm.build import compile_bundle
from iseg_tvm.bundle import MANIFEST_NAME
from iseg_tvm.errors import IsegError
from iseg_tvm.models.config import SegmenterConfig, segmenter_preset
from iseg_tvm.models.segmenter import Segmenter, build_segmenter
from iseg_tvm.quantization import quantize
from iseg_tvm.targets import TargetSpec

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "demo" / "photo.jpg"
DEFAULT_CACHE = ROOT / "out" / "benchmarks"
SEED = 0
PRESETS = {"seg-t": "seg_tiny_mask", "seg-s": "seg_small_mask", "seg-b": "seg_base_mask"}
SIZE = (512, 512)

LIBRARY_SOURCES = ("iseg_tvm", "relay_ops", "targets", "tuning_logs")
_QUANTIZER = ("iseg_tvm/models", "iseg_tvm/quantization", "iseg_tvm/fixed_point.py")


def config(name: str, *, l2_norm: bool) -> SegmenterConfig:
    """Configuration of a model of `PRESETS`.

    Raises
    ------
    IsegError
        The name is unknown.
    """
    if name not in PRESETS:
        raise IsegError(f"unknown model {name!r}", f"known: {', '.join(PRESETS)}")
    return segmenter_preset(PRESETS[name], image_size=SIZE, l2_norm=l2_norm)


def photo(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return the demo photograph, uint8 (H, W, 3), on which everything is run."""
    return images.photo_to_array(images.load_photo(PHOTO), size)


def float_model(name: str, *, l2_norm: bool) -> Segmenter:
    """Float model with random weights; those of both forms are equal."""
    return build_segmenter(config(name, l2_norm=l2_norm), SEED)


def quantized_model(name: str, cache: Path) -> QuantizedModel:
    """Integer model of a preset, or of a ``.safetensors`` file that ``iseg-tvm quantize`` wrote."""
    if name.endswith(".safetensors"):
        return load_model(name)
    path = cache / f"{name}-{digest(_QUANTIZER)}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(quantize(float_model(name, l2_norm=False), [photo()]), path)
    return load_model(path)


def bundle(name: str, target: TargetSpec, cache: Path) -> Path:
    """Bundle folder of a model, compiled with the sources as they are now."""
    key = digest(LIBRARY_SOURCES)
    folder = cache / f"{Path(name).stem}-{target.name}-{key}"
    if not (folder / MANIFEST_NAME).is_file():
        compile_bundle(quantized_model(name, cache), target, folder)
    return folder


def digest(names: Iterable[str], *more: str | None) -> str:
    """Short hash of files and folders of the repository, of TVM's version, and of more texts."""
    texts = (importlib.metadata.version("apache-tvm"), *more)
    state = hashlib.sha256(repr(texts).encode())
    for path in source_files(names):
        state.update(os.fsencode(path.relative_to(ROOT)))
        state.update(path.read_bytes())
    return state.hexdigest()[:12]


def source_files(names: Iterable[str]) -> list[Path]:
    """Files of the named parts of the repository, without caches, in a fixed order."""
    found: list[Path] = []
    for name in names:
        place = ROOT / name
        found += [place] if place.is_file() else place.rglob("*")
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)
