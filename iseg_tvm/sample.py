"""A picture and the class map a bundle must give for it, in formats that need no library to read.

The picture is a binary PPM (``P6``), the class map a binary PGM (``P5``): grey value = class.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

SAMPLE_NAME = "sample.ppm"
EXPECTED_NAME = "expected.pgm"

_MAGIC = {3: b"P6", 2: b"P5"}
_SQUARES = 8


@dataclass(frozen=True)
class Sample:
    """An image and its class map.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), uint8
        RGB.
    class_map : ndarray, shape (H, W), uint8
        What the NumPy reference gives for it.
    """

    image: npt.NDArray[np.uint8]
    class_map: npt.NDArray[np.uint8]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files into a folder; return their paths."""
        paths = folder / SAMPLE_NAME, folder / EXPECTED_NAME
        for path, array in zip(paths, (self.image, self.class_map), strict=True):
            path.write_bytes(_encode(array))
        return paths


def read_sample(folder: Path) -> Sample:
    """Read both files of a folder.

    Raises
    ------
    IsegError
        One is missing, or was not written by `Sample.write`.
    """
    return Sample(_read(folder / SAMPLE_NAME, 3), _read(folder / EXPECTED_NAME, 2))


def read_picture(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Read a picture in the given (height, width): any format with Pillow, else binary PPM.

    Raises
    ------
    IsegError
        It cannot be read, or without Pillow has another size.
    """
    try:
        from PIL import Image
    except ImportError:
        image = _read(path, 3)
        if image.shape[:2] != size:
            raise IsegError(
                f"{path} is {image.shape[0]} x {image.shape[1]} pixels, the model takes "
                f"{size[0]} x {size[1]}",
                "install Pillow, which resizes it",
            ) from None
        return image
    try:
        picture = Image.open(path).convert("RGB")
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error}") from error
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def write_class_map(class_map: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a class map as a binary PGM, complete or not at all.

    Raises
    ------
    IsegError
        It cannot be written.
    """
    with atomic_write(path) as stream:
        stream.write(_encode(class_map))


def differing_pixels(got: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> int:
    """Return how many pixels of two class maps of one size differ."""
    return int(np.count_nonzero(got != expected))


def built_in_picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the built-in picture, always the same: coloured squares, gradients, noise.

    Parameters
    ----------
    height, width : int
        Size in pixels.

    Returns
    -------
    ndarray, shape (height, width, 3), uint8
    """
    rows, columns = np.mgrid[:height, :width]
    squares = (rows * _SQUARES // height) * _SQUARES + columns * _SQUARES // width
    colours = np.array([[(37 * i) % 256, (91 * i + 80) % 256, (151 * i + 160) % 256]
                        for i in range(_SQUARES * _SQUARES)])  # fmt: skip
    gradient = (rows * 64 // height + columns * 64 // width)[..., None]
    # A linear congruential generator on integers: the same noise with every version of NumPy.
    noise = ((rows * 1103515245 + columns * 12345 + (rows * columns) * 69069) >> 7)[..., None] % 48
    return np.clip(colours[squares] // 2 + gradient + noise, 0, 255).astype(np.uint8)


def _encode(array: npt.NDArray[np.uint8]) -> bytes:
    header = b"%s\n%d %d\n255\n" % (_MAGIC[array.ndim], array.shape[1], array.shape[0])
    return header + np.ascontiguousarray(array).tobytes()


def _read(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    try:
        content = path.read_bytes()
        magic, size, depth, pixels = content.split(b"\n", 3)
        width, height = map(int, size.split())
        if (magic, depth) != (_MAGIC[dimensions], b"255"):
            raise ValueError(magic)
        shape = (height, width, 3)[:dimensions]
        return np.frombuffer(pixels, np.uint8).reshape(shape).copy()
    except (OSError, ValueError) as error:
        raise IsegError(f"cannot read {path}: {error}", "copy the bundle again") from error
