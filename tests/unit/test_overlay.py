"""The overlay: the right pixels tinted, and a legend that fits beside photos of any size."""

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.overlay import blend, class_shares, draw_overlay, share_text
from iseg_tvm.palettes import load_palette

ADE = load_palette("ade20k")
NAMES = ("sky", "road", "car", "dog")
COLORS = ((0, 0, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0))


def test_shares_are_sorted_by_area() -> None:
    class_map = np.array([[2, 2, 2], [0, 0, 3]], np.uint8)
    shares = class_shares(class_map, NAMES)
    assert [(s.index, s.name, s.pixels) for s in shares] == [
        (2, "car", 3),
        (0, "sky", 2),
        (3, "dog", 1),
    ]
    assert sum(s.share for s in shares) == pytest.approx(1)


def test_class_without_a_name() -> None:
    with pytest.raises(ValueError, match="the map has class 4, and only 4 have names"):
        class_shares(np.array([[4]], np.uint8), NAMES)


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100.0 %"), (0.1234, "12.3 %"), (0.0006, "0.1 %"), (0.0004, "< 0.1 %")],
)
def test_share_text(share: float, text: str) -> None:
    assert share_text(share) == text


def test_blend() -> None:
    photo = Image.new("RGB", (2, 1), (100, 100, 100))
    class_map = np.array([[0, 2]], np.uint8)
    assert np.asarray(blend(photo, class_map, COLORS, 0.5)).tolist() == [
        [[50, 50, 177], [177, 50, 50]]
    ]
    assert blend(photo, class_map, COLORS, 0.0).getpixel((0, 0)) == (100, 100, 100)
    assert blend(photo, class_map, COLORS, 1.0).getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (500, 375), (3000, 200), (120, 2500)])
@pytest.mark.parametrize("count", [1, 7, 150])
def test_photo_of_any_size_with_any_number_of_classes(size: tuple[int, int], count: int) -> None:
    width, height = size
    photo = Image.new("RGB", size, (10, 20, 30))
    class_map = (np.arange(width * height) % count).astype(np.uint8).reshape(height, width)
    overlay = draw_overlay(photo, class_map, ADE.classes, ADE.colors, alpha=0.0)
    assert overlay.width > width
    assert overlay.height >= height
    assert overlay.crop((0, 0, width, height)).tobytes() == photo.tobytes()
    legend = np.asarray(overlay)[:, width:].reshape(-1, 3)
    drawn = {tuple(color) for color in np.unique(legend, axis=0).tolist()}
    present = np.unique(class_map).tolist()
    assert {ADE.colors[index] for index in present} <= drawn
    absent = set(ADE.colors) - {ADE.colors[index] for index in present}
    greys = {(value,) * 3 for value in range(256)}  # text and frames are grey
    assert not (absent - greys) & drawn


def test_legend_is_not_higher_than_a_large_photo() -> None:
    photo = Image.new("RGB", (600, 600))
    class_map = (np.arange(600 * 600) % 150).astype(np.uint8).reshape(600, 600)
    assert draw_overlay(photo, class_map, ADE.classes, ADE.colors).height == 600


def test_legend_grows_with_the_photo() -> None:
    widths = []
    for side in (400, 4000):
        photo = Image.new("RGB", (side, side))
        overlay = draw_overlay(photo, np.zeros((side, side), np.uint8), NAMES, COLORS)
        widths.append(overlay.width - side)
    assert widths[1] > 5 * widths[0]


@pytest.mark.parametrize(
    ("shape", "colors", "alpha", "message"),
    [
        ((3, 2), COLORS, 0.5, "class map"),
        ((2, 3), COLORS, 1.5, "alpha"),
        ((2, 3), COLORS[:2], 0.5, "2 colours for 4 classes"),
    ],
)
def test_wrong_arguments(
    shape: tuple[int, int], colors: tuple[tuple[int, int, int], ...], alpha: float, message: str
) -> None:
    photo = Image.new("RGB", (3, 2))
    with pytest.raises(ValueError, match=message):
        draw_overlay(photo, np.zeros(shape, np.uint8), NAMES, colors, alpha)
