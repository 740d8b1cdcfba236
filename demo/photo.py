"""The demo photograph, which no training scene shows, with coarse labels given by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from demo.photographs import EVERYWHERE, Polygon, draw_classes

# Fur and plants; deep shade and the border between are left out.
DEMO_PHOTO = Path(__file__).parent / "photo.jpg"
_DEMO_POLYGONS: tuple[tuple[str, Polygon], ...] = (
    ("plants", EVERYWHERE),
    ("ignore", ((255, 375), (385, 385), (480, 470), (480, 512), (330, 512), (240, 440))),
    ("fur", ((0, 0), (425, 0), (452, 75), (500, 58), (508, 90), (470, 135), (490, 190),
             (465, 235), (420, 258), (385, 265), (345, 310), (325, 345), (385, 345), (340, 388),
             (290, 390), (255, 375), (200, 375), (160, 340), (110, 300), (70, 280), (0, 262))),
    ("ignore", ((0, 255), (90, 270), (200, 350), (250, 420), (240, 445), (190, 400), (100, 320),
                (70, 290), (0, 287))),
)  # fmt: skip


def demo_photo(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the demo photograph and its coarse class map.

    Parameters
    ----------
    side : int
        Height and width in pixels to which both are resized.

    Returns
    -------
    tuple of numpy.ndarray
        Image of shape (side, side, 3) and class map of shape (side, side), uint8.
    """
    picture = Image.open(DEMO_PHOTO).convert("RGB")
    classes = draw_classes(picture.size, (0, 0), _DEMO_POLYGONS)
    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.array(picture), np.array(classes.resize((side, side), Image.Resampling.NEAREST))
