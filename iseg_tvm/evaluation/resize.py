"""Bilinear resizing as OpenCV and PyTorch do it: half-pixel centres and no antialiasing.

The official evaluation resizes pictures with OpenCV (through mmcv) and scores with PyTorch; Pillow
would smooth when it makes a picture smaller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_STRIP = 64  # rows of the result computed at once: 150 class scores of a photo do not fit memory


class _Axis(NamedTuple):
    """For each place of the result: its two source places, and the weight of the second."""

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float32]


def _axis(old: int, new: int) -> _Axis:
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = place.astype(np.intp)
    return _Axis(low, np.minimum(low + 1, old - 1), (place - low).astype(np.float32))


def _blend(values: npt.NDArray[np.float32], rows: _Axis, columns: _Axis) -> npt.NDArray[np.float32]:
    """Interpolate (h, w, C) at the given rows and columns."""
    upper, lower = values[rows.low], values[rows.high]
    mixed = upper + (lower - upper) * rows.weight[:, None, None]
    left, right = mixed[:, columns.low], mixed[:, columns.high]
    return left + (right - left) * columns.weight[None, :, None]


def resize_image(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize an image to (height, width).

    Parameters
    ----------
    image : ndarray, shape (h, w, 3), uint8
    size : (int, int)

    Returns
    -------
    ndarray, shape (height, width, 3), uint8
        Rounded to nearest, half to even.
    """
    if image.shape[:2] == size:
        return image
    rows, columns = (_axis(old, new) for old, new in zip(image.shape[:2], size, strict=True))
    return np.rint(_blend(image.astype(np.float32), rows, columns)).astype(np.uint8)


def best_class(scores: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize class scores to (height, width) and take the class of the highest one.

    Parameters
    ----------
    scores : ndarray, shape (h, w, C), float32, C at most 256
    size : (int, int)

    Returns
    -------
    ndarray, shape (height, width), uint8
        Of equal scores the first class.
    """
    if scores.shape[:2] == size:
        return scores.argmax(axis=2).astype(np.uint8)
    rows, columns = (_axis(old, new) for old, new in zip(scores.shape[:2], size, strict=True))
    result = np.empty(size, np.uint8)
    for start in range(0, size[0], _STRIP):
        part = slice(start, start + _STRIP)
        strip = _Axis(rows.low[part], rows.high[part], rows.weight[part])
        result[part] = _blend(scores, strip, columns).argmax(axis=2)
    return result
