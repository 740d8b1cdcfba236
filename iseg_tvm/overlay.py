"""Draw a class map over its photo, with a legend of the classes that are in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND, _INK, _FRAME = (255, 255, 255), (20, 20, 20), (120, 120, 120)
_MIN_FONT, _FONT_SHARE = 12, 36  # pixels; one 36th of the photo's shorter side
_MIN_ROWS = 16  # a column of the legend is at least this long, even beside a tiny photo

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassShare:
    """One class of a map: its index, name, pixel count and share (0 to 1) of the map."""

    index: int
    name: str
    pixels: int
    share: float


def class_shares(class_map: npt.NDArray[np.uint8], classes: Sequence[str]) -> list[ClassShare]:
    """Return the classes that occur in a map, largest area first.

    Parameters
    ----------
    class_map : ndarray, shape (H, W), uint8
        Class index of every pixel.
    classes : sequence of str
        Class names.

    Raises
    ------
    ValueError
        A pixel's index has no name.
    """
    counts = np.bincount(class_map.ravel(), minlength=len(classes))
    if len(counts) > len(classes):
        raise ValueError(f"the map has class {len(counts) - 1}, and only {len(classes)} have names")
    order = np.argsort(-counts, kind="stable")
    return [
        ClassShare(int(i), classes[i], int(counts[i]), float(counts[i] / class_map.size))
        for i in order
        if counts[i]
    ]


def share_text(share: float) -> str:
    """Return a share as people read it: ``12.3 %``, and ``< 0.1 %`` instead of ``0.0 %``."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def blend(
    photo: Image.Image,
    class_map: npt.NDArray[np.uint8],
    palette: Sequence[Color],
    alpha: float,
) -> Image.Image:
    """Return the photo tinted with its classes' colours; `alpha` is the colours' weight."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return Image.blend(photo.convert("RGB"), Image.fromarray(colors[class_map]), alpha)


def draw_overlay(
    photo: Image.Image,
    class_map: npt.NDArray[np.uint8],
    classes: Sequence[str],
    palette: Sequence[Color],
    alpha: float = 0.5,
) -> Image.Image:
    """Return the tinted photo with a legend at its right.

    The legend names the classes present, largest first, each with its colour as it looks in the
    palette and its share of the picture. It breaks into columns where it is higher than the
    photo.

    Parameters
    ----------
    photo : Image
        The photo, of any size.
    class_map : ndarray, shape (photo.height, photo.width), uint8
        Class index of every pixel.
    classes, palette : sequences
        Name and RGB colour of every class.
    alpha : float, optional
        Weight of the colours, 0 (photo alone) to 1.

    Raises
    ------
    ValueError
        The map has another size than the photo, `alpha` is out of range, or a class lacks a name
        or a colour.
    """
    if class_map.shape != (photo.height, photo.width):
        raise ValueError(f"class map {class_map.shape} for a photo of {photo.size[::-1]}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")
    if len(palette) < len(classes):
        raise ValueError(f"{len(palette)} colours for {len(classes)} classes")
    picture = blend(photo, class_map, palette, alpha)
    legend = _draw_legend(class_shares(class_map, classes), palette, photo.size)
    canvas = Image.new(
        "RGB",
        (picture.width + legend.width, max(picture.height, legend.height)),
        _BACKGROUND,
    )
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (picture.width, 0))
    return canvas


def _draw_legend(
    shares: Sequence[ClassShare], palette: Sequence[Color], photo_size: tuple[int, int]
) -> Image.Image:
    """Return the legend on white, no higher than the photo or `_MIN_ROWS` lines."""
    size = max(_MIN_FONT, min(photo_size) // _FONT_SHARE)
    font = ImageFont.load_default(size)
    line, gap = round(1.6 * size), size // 2
    texts = [(share.name, share_text(share.share)) for share in shares]
    name_width = max(round(font.getlength(name)) for name, _ in texts)
    share_width = max(round(font.getlength(text)) for _, text in texts)
    column = gap + size + gap + name_width + 2 * gap + share_width + gap
    rows = min(len(texts), max(_MIN_ROWS, (photo_size[1] - 2 * gap) // line))
    columns = -(-len(texts) // rows)
    image = Image.new("RGB", (columns * column, rows * line + 2 * gap), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    for number, (share, (name, percent)) in enumerate(zip(shares, texts, strict=True)):
        left, top = number // rows * column + gap, gap + number % rows * line
        draw.rectangle(
            (left, top, left + size, top + size), fill=palette[share.index], outline=_FRAME
        )
        middle = top + size / 2
        draw.text((left + size + gap, middle), name, fill=_INK, font=font, anchor="lm")
        right = left + column - 2 * gap
        draw.text((right, middle), percent, fill=_INK, font=font, anchor="rm")
    return image
