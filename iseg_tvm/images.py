"""Pictures in and out: any file Pillow reads becomes an RGB photo, or a clear error."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16-bit grey files
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a picture with its pixels read, in Pillow's mode of the file.

    Raises
    ------
    IsegError
        The file is missing, is no picture, or is cut short.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a picture" if path.is_dir() else "does not exist"
        raise IsegError(f"{path} {what}", "name a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                yield file
    except UnidentifiedImageError as error:
        raise IsegError(f"{path} is not a picture Pillow can read", "use PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise IsegError(f"{path} is too large a picture: {error}", "make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise IsegError(f"{path} is a damaged picture: {error}", "copy it again") from error


def load_photo(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture as RGB, upright.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to
    8 bits, and of an animation the first frame is taken.

    Raises
    ------
    IsegError
        The file is missing, is no picture, is cut short, or has floating-point pixels.
    """
    with open_picture(path) as file:
        return _to_rgb(ImageOps.exif_transpose(file), Path(path))


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert any of Pillow's modes to RGB."""
    if image.mode in _DEEP_GREY:
        # Plain convert() would clip at 255 instead of scaling.
        deep = np.asarray(image).astype(np.int64)
        return Image.fromarray((deep.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise IsegError(f"{path} has floating-point pixels", "convert it to 8 bits")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def photo_to_array(photo: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize a photo to (height, width) and return it as uint8 (height, width, 3)."""
    height, width = size
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def resize_class_map(
    class_map: npt.NDArray[np.uint8], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Resize a class map to (height, width) by nearest neighbour."""
    height, width = size
    image = Image.fromarray(class_map).resize((width, height), Image.Resampling.NEAREST)
    return np.array(image, dtype=np.uint8)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the picture files named, and those in the folders named, sorted within a folder.

    Raises
    ------
    IsegError
        A path does not exist, a folder has no picture in it, or nothing was named.
    """
    suffixes = set(Image.registered_extensions())
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise IsegError(f"{path} does not exist", "name a picture or a folder of pictures")
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file())
        if not inside:
            raise IsegError(f"the folder {path} has no pictures", "put at least one PNG or JPEG in")
        found.extend(inside)
    if not found:
        raise IsegError("no pictures were named", "name at least one picture or folder")
    return found


def check_output_name(path: str | os.PathLike[str]) -> str:
    """Return the format a file's suffix names.

    Raises
    ------
    IsegError
        No format that can be written has this suffix.
    """
    suffix = Path(path).suffix.lower()
    file_format = Image.registered_extensions().get(suffix)
    if file_format is None or file_format not in Image.SAVE:
        raise IsegError(f"{path}: no picture format is called {suffix!r}", "end it in .png")
    return file_format


def check_mask_name(path: str | os.PathLike[str]) -> None:
    """Refuse a mask that would be no PNG: other formats lose indices.

    Raises
    ------
    IsegError
        The name does not end in ``.png``.
    """
    if Path(path).suffix.lower() != ".png":
        raise IsegError(f"{path}: a mask is written as PNG", "end its name in .png")


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format its suffix names, complete or not at all.

    Raises
    ------
    IsegError
        The suffix names no format that can be written, or the file cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=check_output_name(path))
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def save_mask(
    class_map: npt.NDArray[np.uint8],
    palette: Sequence[tuple[int, int, int]],
    path: str | os.PathLike[str],
) -> None:
    """Write a class map as an index PNG: pixel value = class, shown in the palette's colours.

    Raises
    ------
    IsegError
        The name does not end in ``.png``, or the file cannot be written.
    """
    check_mask_name(path)
    image = Image.fromarray(class_map)
    image.putpalette([value for color in palette for value in color])
    save_image(image, path)
