"""Class names and colours of the data sets Segmenter is published for, and of any other one.

The order of the classes is the one the published models were trained with. For Pascal-Context
that is not the alphabetical one.
"""

import colorsys
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from iseg_tvm.errors import IsegError

_FILE = Path(__file__).resolve().parent / "data" / "palettes.json"
_GOLDEN_RATIO = 0.618033988749895

# Pascal-Context is used with its class "background" (60 classes) and without it (59).
_WITHOUT_FIRST = {"pascal_context_59": "pascal_context"}

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Class names and RGB colours (0-255); the index is the value in a class map."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]

    def check_count(self, num_classes: int) -> None:
        """Refuse a palette of another number of classes than the model's.

        Raises
        ------
        IsegError
            The numbers differ.
        """
        if len(self.classes) != num_classes:
            raise IsegError(
                f"{self.name} names {len(self.classes)} classes, and the model has {num_classes}",
                "give --classes a file with one row a class, in the model's order",
            )


@cache
def _published() -> dict[str, Palette]:
    """Read the data file."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    palettes = {
        name: Palette(name, tuple(n for n, _ in rows), tuple((r, g, b) for _, (r, g, b) in rows))
        for name, rows in content.items()
    }
    for short, full in _WITHOUT_FIRST.items():
        whole = palettes[full]
        palettes[short] = Palette(short, whole.classes[1:], whole.colors[1:])
    return palettes


def list_palettes() -> list[str]:
    """Return the names of the data sets."""
    return sorted(_published())


def load_palette(name: str) -> Palette:
    """Return a data set's palette.

    Parameters
    ----------
    name : str
        ``ade20k`` (150 classes), ``cityscapes`` (19), ``pascal_context`` (60) or
        ``pascal_context_59`` (the same without "background").

    Raises
    ------
    IsegError
        There is no such palette.
    """
    palettes = _published()
    if name not in palettes:
        raise IsegError(f"unknown palette {name!r}", f"known: {', '.join(list_palettes())}")
    return palettes[name]


def generic_palette(num_classes: int, classes: Sequence[str] = ()) -> Palette:
    """Return distinct colours for any number of classes.

    Hues advance by the golden ratio, so neighbouring indices never look alike; brightness and
    saturation change at every step to keep 256 of them apart.

    Parameters
    ----------
    num_classes : int
        1 to 256.
    classes : sequence of str, optional
        Their names; ``class 0``, ``class 1`` and so on if left out.

    Raises
    ------
    IsegError
        No class, more than an 8-bit map can hold, or another number of names.
    """
    if not 1 <= num_classes <= 256:
        raise IsegError(f"{num_classes} classes do not fit a map of 8 bits", "use 1 to 256 classes")
    names = tuple(classes) or tuple(f"class {index}" for index in range(num_classes))
    if len(names) != num_classes:
        raise IsegError(f"{len(names)} class names for {num_classes} classes")
    colors = []
    for index in range(num_classes):
        hue = (index * _GOLDEN_RATIO) % 1.0
        saturation = (0.85, 0.55, 1.0)[index % 3]
        value = (1.0, 0.8, 0.6, 0.9)[index % 4]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return Palette("generic", names, tuple(colors))


def palette_for(num_classes: int, dataset: str = "") -> Palette:
    """Return the palette of a model: its data set's, else generated colours.

    A number of classes alone names no data set: 150 need not be ADE20K.
    """
    for name in (dataset, f"{dataset}_{num_classes}"):
        if name in _published() and len(load_palette(name).classes) == num_classes:
            return load_palette(name)
    return generic_palette(num_classes)


def read_classes(path: str | os.PathLike[str]) -> Palette:
    """Read a data set's classes from a JSON file: ``[["sky", [70, 130, 180]], ...]``.

    Raises
    ------
    IsegError
        The file is missing, is no JSON, or has rows of another form.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise IsegError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise IsegError(
            f"{path} is not a list of classes",
            'write a row a class: [["sky", [70, 130, 180]], ["road", [128, 64, 128]]]',
        )
    return Palette(str(path), tuple(r[0] for r in rows), tuple((*r[1],) for r in rows))


def _is_row(row: object) -> bool:
    """Whether this is a name and three integers of 0 to 255."""
    match row:
        case [str(name), [int(), int(), int()] as color]:
            return bool(name) and all(0 <= value <= 255 for value in color)
    return False
