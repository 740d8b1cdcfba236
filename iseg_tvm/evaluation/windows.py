"""From a photo of any size to its class map: resizing, sliding windows, merging.

The geometry is that of the official evaluation (github.com/rstrudel/segmenter, single scale): the
photo is resized, keeping its proportions, until its shorter side is ``short_side`` or its longer
side ``max_ratio * short_side``, whichever comes first; it is enlarged further if a window would not
fit; windows start at multiples of the stride, and the last one ends at the border.

Two protocols merge what the windows say:

``average``
    The official one: scores are averaged where windows overlap, resized bilinearly to the photo,
    and the highest one wins. Needs scores, which only the float model has.
``ownership``
    For models whose output is a class map: each pixel's class is taken from the one window whose
    centre is nearest (of equally near ones the upper, the left), and the map is resized to the
    photo by nearest neighbour.

Without a stride the whole photo is squeezed into one window, as ``iseg-tvm segment`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.resize import best_class, resize_image
from iseg_tvm.images import photo_to_array, resize_class_map


class Engine(Protocol):
    """A model under evaluation.

    Attributes
    ----------
    kind : ``checkpoint``, ``model`` or ``bundle``
    path : what was loaded
    classes : class names, one a class
    window : (height, width) of the images it takes, in pixels
    checksum : SHA-256 of what was loaded
    upsampling : ``nearest`` or ``bilinear``: how patches become pixels in its class map
    """

    kind: str
    path: str
    classes: tuple[str, ...]
    window: tuple[int, int]
    checksum: str
    upsampling: str

    def class_map(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 image (H, W, 3) of ``window`` to uint8 class map (H, W)."""
        ...


@runtime_checkable
class ScoreEngine(Protocol):
    """An engine that also gives class scores."""

    def scores(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 image (H, W, 3) to float32 scores (H, W, classes)."""
        ...


@dataclass(frozen=True)
class Settings:
    """How photos are cut and merged; see the module.

    Attributes
    ----------
    protocol : ``ownership`` or ``average``
    window : (height, width) of a window, in pixels
    stride : (down, right) from window to window, or None to squeeze the whole photo into one
    short_side : length in pixels; None leaves the photo as it is
    max_ratio : longest side allowed, over ``short_side``
    """

    protocol: str
    window: tuple[int, int]
    stride: tuple[int, int] | None
    short_side: int | None = None
    max_ratio: int = 4

    def __post_init__(self) -> None:
        """Refuse gaps between windows."""
        if self.stride and any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise IsegError(
                "stride {} {} leaves gaps between windows of {} {}".format(
                    *self.stride, *self.window
                ),
                "choose a --stride of at most the --window",
            )


def predict(engine: Engine, photo: Image.Image, settings: Settings) -> npt.NDArray[np.uint8]:
    """Return the class map of a photo.

    Parameters
    ----------
    engine : Engine
    photo : Image
        RGB, any size.
    settings : Settings

    Returns
    -------
    ndarray, shape (photo.height, photo.width), uint8

    Raises
    ------
    IsegError
        The protocol needs scores, and the engine has none.
    """
    size = (photo.height, photo.width)
    if settings.stride is None:
        image = photo_to_array(photo, settings.window)
        anchors: tuple[list[int], list[int]] = ([0], [0])
    else:
        image = np.array(photo, dtype=np.uint8)
        if settings.short_side is not None:
            image = resize_image(
                image, rescaled_size(size, settings.short_side, settings.max_ratio)
            )
        image = resize_image(image, enlarged_size(image.shape[:2], settings.window))
        rows, columns = (
            window_starts(*axis)
            for axis in zip(image.shape[:2], settings.window, settings.stride, strict=True)
        )
        anchors = (rows, columns)
    if settings.protocol == "average":
        if not isinstance(engine, ScoreEngine):
            raise IsegError(
                f"a {engine.kind} gives class maps, and the protocol `average` needs scores",
                "choose --protocol ownership; the float --checkpoint can be measured so too",
            )
        num_classes = len(engine.classes)
        return best_class(_average(engine, image, anchors, settings.window, num_classes), size)
    return resize_class_map(_ownership(engine, image, anchors, settings.window), size)


def rescaled_size(size: tuple[int, int], short_side: int, max_ratio: int) -> tuple[int, int]:
    """Return (height, width) after mmcv's ``imrescale`` to (max_ratio * short_side, short_side)."""
    scale = min(max_ratio * short_side / max(size), short_side / min(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def enlarged_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (height, width) of these proportions that holds a window.

    A size that holds one already is returned as it is. The longer side is rounded down.
    """
    (height, width), (window_height, window_width) = size, window
    if height >= window_height and width >= window_width:
        return size
    if window_height * width >= window_width * height:  # the height is what is short of
        return window_height, max(window_width, int(width / height * window_height))
    return max(window_height, int(height / width * window_width)), window_width


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along an axis that is at least one window long."""
    return [*range(0, length - window, stride), length - window]


def owned_ranges(starts: list[int], length: int, window: int) -> list[tuple[int, int]]:
    """Return the pixels ``[begin, end)`` that each window owns along an axis.

    A pixel belongs to the window whose centre is nearest to its own, the first of equally near.
    """
    # Between two starts a < b the centres' midpoint is (a + b + window) / 2; the pixel p, centred
    # at p + 1/2, is the first window's up to and including that point.
    ends = [(a + b + window - 1) // 2 + 1 for a, b in zip(starts, starts[1:], strict=False)]
    return list(zip([0, *ends], [*ends, length], strict=True))


def _average(
    engine: ScoreEngine,
    image: npt.NDArray[np.uint8],
    anchors: tuple[list[int], list[int]],
    window: tuple[int, int],
    num_classes: int,
) -> npt.NDArray[np.float32]:
    """Mean score of all windows over each pixel: float32 (H, W, classes)."""
    total = np.zeros((*image.shape[:2], num_classes), np.float32)
    count = np.zeros((*image.shape[:2], 1), np.float32)
    for top in anchors[0]:
        for left in anchors[1]:
            part = np.s_[top : top + window[0], left : left + window[1]]
            total[part] += engine.scores(image[part])
            count[part] += 1
    total /= count
    return total


def _ownership(
    engine: Engine,
    image: npt.NDArray[np.uint8],
    anchors: tuple[list[int], list[int]],
    window: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    """Class of each pixel in the window that owns it: uint8 (H, W)."""
    result = np.empty(image.shape[:2], np.uint8)
    rows = owned_ranges(anchors[0], image.shape[0], window[0])
    columns = owned_ranges(anchors[1], image.shape[1], window[1])
    for top, (row, row_end) in zip(anchors[0], rows, strict=True):
        for left, (column, column_end) in zip(anchors[1], columns, strict=True):
            part = np.ascontiguousarray(image[top : top + window[0], left : left + window[1]])
            found = engine.class_map(part)
            result[row:row_end, column:column_end] = found[
                row - top : row_end - top, column - left : column_end - left
            ]
    return result
