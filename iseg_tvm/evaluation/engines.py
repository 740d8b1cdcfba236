"""The models that can be evaluated, behind `iseg_tvm.evaluation.windows.Engine`.

torch is imported for checkpoints and integer models only: a board evaluates bundles without it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from iseg_tvm.bundle import MANIFEST_NAME
from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.windows import Engine
from iseg_tvm.files import sha256_file
from iseg_tvm.palettes import Palette, generic_palette, palette_for, read_classes

if TYPE_CHECKING:
    from iseg_tvm.artifact import QuantizedModel
    from iseg_tvm.board.runner import Runner
    from iseg_tvm.models.config import SegmenterConfig
    from iseg_tvm.models.segmenter import Segmenter as FloatSegmenter

_CLASSES_FILE = "classes.json"
KINDS = ("checkpoint", "model", "bundle")


class CheckpointEngine:
    """The float model, in PyTorch."""

    kind = "checkpoint"

    def __init__(
        self, path: Path, model: FloatSegmenter, window: tuple[int, int] | None, upsampling: str
    ) -> None:
        from iseg_tvm.models.checkpoint import CHECKPOINT_FILE, VARIANT_FILE

        config = model.config
        weights = path / CHECKPOINT_FILE if path.is_dir() else path
        self.path = str(path)
        self.classes = checkpoint_palette(path, config).classes
        self.window = window or config.image_size
        sums = sha256_file(weights) + sha256_file(weights.with_name(VARIANT_FILE))
        self.checksum = hashlib.sha256(sums.encode()).hexdigest()
        self.upsampling = upsampling
        self._model = model

    def scores(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 image (H, W, 3) to float32 scores (H, W, classes)."""
        import torch

        with torch.inference_mode():
            scores = self._model(self._model.normalize_uint8(image[None]))
        return scores[0].permute(1, 2, 0).contiguous().numpy()

    def class_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 image (H, W, 3) to uint8 class map (H, W)."""
        import torch

        if self.upsampling == "bilinear":
            return self.scores(image).argmax(axis=2).astype(np.uint8)
        with torch.inference_mode():
            scores = self._model.forward_scores(self._model.normalize_uint8(image[None]))
        patches = scores[0].argmax(dim=0).numpy().astype(np.uint8)
        side = self._model.config.encoder.patch_size
        return patches.repeat(side, axis=0).repeat(side, axis=1)[: image.shape[0], : image.shape[1]]


class ModelEngine:
    """The integer model, in PyTorch: what the compiled one computes, bit for bit."""

    kind, upsampling = "model", "nearest"

    def __init__(self, path: Path, model: QuantizedModel, window: tuple[int, int] | None) -> None:
        from iseg_tvm.integer_model import IntegerSegmenter

        self.path = str(path)
        self.classes = model.classes or generic_palette(model.config.num_classes).classes
        self.window = window or model.input_size
        self.checksum = sha256_file(path)
        self._model = IntegerSegmenter(replace(model, input_size=self.window))

    def class_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 image (H, W, 3) to uint8 class map (H, W)."""
        import torch

        with torch.inference_mode():
            return self._model(torch.from_numpy(np.array(image))).numpy()


class BundleEngine:
    """The compiled model, run by TVM on this machine or on a board."""

    kind, upsampling = "bundle", "nearest"

    def __init__(self, path: Path, runner: Runner) -> None:
        self.path = str(path)
        self.classes = runner.manifest.classes
        self.window = runner.manifest.image_size
        self.checksum = sha256_file(path / MANIFEST_NAME)  # it holds the library's own checksum
        self._runner = runner

    def class_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 image (H, W, 3) to uint8 class map (H, W)."""
        return self._runner.run(image)


def checkpoint_palette(path: Path, config: SegmenterConfig) -> Palette:
    """Class names and colours of a checkpoint: its ``classes.json``, or those of its data set.

    Raises
    ------
    IsegError
        The file is wrong, or for another number of classes.
    """
    names = (path if path.is_dir() else path.parent) / _CLASSES_FILE
    count = config.num_classes
    palette = read_classes(names) if names.is_file() else palette_for(count, config.dataset)
    palette.check_count(count)
    return palette


def open_engine(
    kind: str,
    path: Path,
    *,
    window: tuple[int, int] | None = None,
    threads: int | None = None,
    upsampling: str = "bilinear",
    runner: Runner | None = None,
) -> Engine:
    """Load a model.

    Parameters
    ----------
    kind : {"checkpoint", "model", "bundle"}
    path : Path
        Checkpoint folder, integer model file or bundle folder.
    window : (int, int), optional
        Height and width of the images to run it on; its own if left out.
    threads : int, optional
        CPU threads.
    upsampling : {"bilinear", "nearest"}
        How a checkpoint's patches become the pixels of its class map: the paper's way, or the
        integer model's, which knows no other.
    runner : Runner, optional
        The bundle, already loaded on a board; it is loaded on this machine if left out.

    Raises
    ------
    IsegError
        It does not load, or a bundle was compiled for another size than `window`.
    """
    if kind == "bundle":
        if runner is None:
            from iseg_tvm.board.runner import LocalRunner
            from iseg_tvm.bundle import read_bundle

            runner = LocalRunner(read_bundle(path), threads)
        size = runner.manifest.image_size
        if window not in (None, size):
            raise IsegError(
                f"{path} takes images of {size[0]} x {size[1]} pixels, not {window[0]} x "
                f"{window[1]}",
                "compile it again with another --image-size, or leave --window out",
            )
        return BundleEngine(path, runner)
    if kind == "model":
        from iseg_tvm.artifact import load_model

        quantized = load_model(path)
        _set_torch_threads(threads)
        return ModelEngine(path, quantized, window)
    from iseg_tvm.models.checkpoint import load_checkpoint

    _set_torch_threads(threads)
    model = load_checkpoint(path)
    if model.config.num_classes > 256:
        raise IsegError(f"{path} has {model.config.num_classes} classes, more than 8 bits hold")
    model.set_fused_attention(True)
    return CheckpointEngine(path, model, window, upsampling)


def _set_torch_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
