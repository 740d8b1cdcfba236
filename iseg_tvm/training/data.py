"""Batches of windows out of a labelled data set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import Dataset, UnreadableFileError, read_sample
from iseg_tvm.evaluation.metrics import IGNORE
from iseg_tvm.images import load_photo


@dataclass(frozen=True)
class Batch:
    """Windows at one common place of an image of the training size.

    Attributes
    ----------
    images : uint8 (B, H, W, 3)
    shares : float32 (B, classes, rows, columns), of each patch's pixels; a patch sums to less than
        1 where pixels are not labelled
    place : (row, column) of the windows, in patches
    """

    images: Tensor
    shares: Tensor
    place: tuple[int, int]


@dataclass
class Batches:
    """Draws batches: the same step gives the same batch, whatever was drawn before.

    Attributes
    ----------
    dataset : Dataset
    image_size, window : (height, width) in pixels, of images as the model was trained and of the
        windows cut out of them; multiples of `patch`
    patch : side of a patch
    batch : windows a step
    zoom : a picture is cropped to between 1 and 1 / zoom of its largest fitting part
    seed : of all random choices
    skipped : names and reasons of samples that could not be read
    """

    dataset: Dataset
    image_size: tuple[int, int]
    window: tuple[int, int]
    patch: int
    batch: int
    zoom: float = 1.0
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse windows that are no whole patches of the image."""
        for side, whole in zip(self.window, self.image_size, strict=True):
            if side % self.patch or whole % self.patch or not 0 < side <= whole:
                raise IsegError(
                    "a window of {} x {} is no multiple of the patch ({}) inside {} x {}".format(
                        *self.window, self.patch, *self.image_size
                    ),
                    "choose another --window",
                )

    def draw(self, step: int) -> Batch:
        """The batch of a step.

        Raises
        ------
        IsegError
            No sample can be read, or a mask does not fit its picture.
        """
        rng = np.random.default_rng([self.seed, step])
        top, left = (
            int(rng.integers(0, (whole - side) // self.patch + 1)) * self.patch
            for whole, side in zip(self.image_size, self.window, strict=True)
        )
        part = np.s_[top : top + self.window[0], left : left + self.window[1]]
        images, targets = [], []
        for _ in range(self.batch):
            image, target = self._view(rng)
            images.append(image[part])
            targets.append(target[part])
        return Batch(
            torch.from_numpy(np.stack(images)),
            patch_shares(np.stack(targets), len(self.dataset.classes), self.patch),
            (top // self.patch, left // self.patch),
        )

    def _view(
        self, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        """A random sample, cropped and mirrored, at the model's image size."""
        photo, target = self._sample(rng)
        height, width = self.image_size
        largest = min(photo.width / width, photo.height / height)
        scale = largest / rng.uniform(1.0, self.zoom)
        extents = (width * scale, height * scale)
        x, y = (
            float(rng.uniform(0, max(side - extent, 0)))
            for side, extent in zip(photo.size, extents, strict=True)
        )
        box = (x, y, min(x + extents[0], photo.width), min(y + extents[1], photo.height))
        image = photo.resize((width, height), Image.Resampling.BILINEAR, box)
        labels = Image.fromarray(target.astype(np.int32)).resize(
            (width, height), Image.Resampling.NEAREST, box
        )
        mirror = -1 if rng.random() < 0.5 else 1
        classes = np.asarray(labels).astype(np.int16)
        return np.asarray(image)[:, ::mirror], classes[:, ::mirror]

    def _sample(self, rng: np.random.Generator) -> tuple[Image.Image, npt.NDArray[np.int16]]:
        """A random sample that can be read; others are noted."""
        samples = self.dataset.samples
        for index in rng.permutation(len(samples)):
            try:
                return read_sample(samples[index])
            except UnreadableFileError as error:
                self.skipped.setdefault(samples[index].name, error.message)
        raise IsegError(f"none of the {len(samples)} samples can be read", "check --root")


def first_photo(dataset: Dataset) -> Image.Image:
    """The first picture of a data set that can be read.

    Raises
    ------
    IsegError
        There is none.
    """
    for sample in dataset.samples:
        try:
            return load_photo(sample.image)
        except IsegError:
            continue
    raise IsegError(f"no picture in {dataset.root} can be read", "check --root")


def patch_shares(targets: npt.NDArray[np.int16], num_classes: int, patch: int) -> Tensor:
    """Share of each class in each patch: (B, H, W) to float32 (B, classes, rows, columns).

    The cross entropy against shares is that of the pixels when patches are upsampled by nearest
    neighbour, as the integer model does.
    """
    classes = torch.from_numpy(targets.astype(np.int64))
    known = classes != IGNORE
    one_hot = functional.one_hot(classes * known, num_classes).float() * known[..., None]
    return functional.avg_pool2d(one_hot.permute(0, 3, 1, 2), patch)
