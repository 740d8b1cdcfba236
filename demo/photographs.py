"""The photographs behind the demo scenes: which part of each may be seen in training.

All files lie inside the wheels of scikit-image and scikit-learn, so nothing is downloaded.
Every photograph is divided into rectangles that are used for one split only: a held-out scene
shows no pixel that training has seen. `rocket.jpg` appears in held-out scenes only, and the demo
photograph (`demo/photo.jpg`) appears in neither split.
Boxes are `(x0, y0, x1, y1)` in pixels of the file, right and lower border exclusive.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from iseg_tvm.errors import IsegError
from iseg_tvm.palettes import read_classes

Box = tuple[int, int, int, int]
Point = tuple[int, int]
Polygon = tuple[Point, ...]

_PALETTE = read_classes(Path(__file__).parent / "classes.json")
CLASSES = _PALETTE.classes
PALETTE = _PALETTE.colors
IGNORE = 255
SPLITS = ("train", "held_out")

_FILES = {
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


@dataclass(frozen=True)
class Texture:
    """A rectangle of one photograph that shows one class only."""

    photo: str
    label: str
    box: Box


@dataclass(frozen=True)
class Cutout:
    """A whole object of one photograph: ellipse, polygon, or a half that is mirrored to a whole."""

    photo: str
    label: str
    box: Box
    outline: Polygon | None = None
    mirror: str = ""


@dataclass(frozen=True)
class LabelledPart:
    """A rectangle of a photograph with coarse polygons (file coordinates), drawn in order."""

    photo: str
    box: Box
    polygons: tuple[tuple[str, Polygon], ...]


TEXTURES: dict[str, tuple[Texture, ...]] = {
    "train": (
        Texture("china", "sky", (0, 0, 150, 75)),
        Texture("camera", "sky", (0, 0, 512, 58)),
        Texture("china", "plants", (0, 345, 98, 427)),
        Texture("china", "plants", (98, 372, 200, 427)),
        Texture("grass", "plants", (0, 0, 300, 512)),
        Texture("flower", "plants", (0, 60, 165, 427)),
        Texture("brick", "building", (0, 0, 300, 512)),
        Texture("china", "building", (120, 110, 228, 228)),
        Texture("china", "building", (85, 258, 228, 335)),
        Texture("gravel", "gravel", (0, 0, 300, 512)),
        Texture("coffee", "wood", (485, 110, 600, 400)),
        Texture("coffee", "wood", (0, 230, 78, 400)),
        Texture("chelsea", "fur", (45, 5, 130, 205)),
        Texture("chelsea", "fur", (130, 5, 252, 84)),
        Texture("chelsea", "fur", (95, 150, 235, 215)),
        Texture("flower", "flower", (200, 130, 306, 310)),
    ),
    "held_out": (
        Texture("china", "sky", (355, 0, 640, 120)),
        Texture("rocket", "sky", (215, 0, 302, 330)),
        Texture("china", "plants", (400, 318, 640, 427)),
        Texture("china", "plants", (580, 205, 640, 318)),
        Texture("grass", "plants", (310, 0, 512, 512)),
        Texture("flower", "plants", (458, 40, 640, 380)),
        Texture("brick", "building", (310, 0, 512, 512)),
        Texture("china", "building", (232, 130, 305, 232)),
        Texture("china", "building", (232, 258, 340, 330)),
        Texture("gravel", "gravel", (310, 0, 512, 512)),
        Texture("coffee", "wood", (430, 0, 600, 100)),
        Texture("coffee", "wood", (0, 112, 74, 225)),
        Texture("chelsea", "fur", (258, 5, 325, 108)),
        Texture("chelsea", "fur", (258, 100, 296, 212)),
        Texture("flower", "flower", (306, 130, 412, 310)),
    ),
}

_COINS = {
    "train": (
        (45, 54, 22, 20), (101, 56, 20, 18), (154, 51, 24, 23), (216, 51, 24, 22),
        (276, 53, 21, 20), (334, 43, 30, 28), (44, 197, 19, 19), (102, 196, 21, 21),
        (154, 198, 19, 19), (213, 193, 24, 23), (274, 194, 22, 21), (347, 187, 32, 31),
    ),
    "held_out": (
        (45, 124, 21, 20), (103, 126, 19, 19), (153, 127, 19, 18), (206, 125, 20, 19),
        (270, 120, 25, 24), (337, 125, 19, 20), (46, 260, 28, 27), (114, 266, 21, 20),
        (172, 261, 28, 26), (244, 264, 24, 23), (301, 264, 25, 24), (358, 268, 22, 20),
    ),
}  # fmt: skip

_CAT = ((32, 40), (60, 2), (255, 2), (255, 262), (200, 268), (120, 235), (60, 170), (30, 110))
_CAT_RIGHT = ((258, 2), (322, 2), (345, 60), (358, 110), (352, 165), (318, 215), (310, 262),
              (258, 262))  # fmt: skip


def _coin(centre: tuple[int, int, int, int]) -> Cutout:
    x, y, rx, ry = centre
    return Cutout("coins", "coin", (x - rx, y - ry, x + rx, y + ry))


CUTOUTS: dict[str, tuple[Cutout, ...]] = {
    "train": (
        *map(_coin, _COINS["train"]),
        Cutout("flower", "flower", (165, 80, 306, 362), mirror="right"),
        Cutout("chelsea", "fur", (28, 0, 256, 270), outline=_CAT),
    ),
    "held_out": (
        *map(_coin, _COINS["held_out"]),
        Cutout("flower", "flower", (306, 80, 448, 362), mirror="left"),
        Cutout("chelsea", "fur", (257, 0, 360, 264), outline=_CAT_RIGHT),
    ),
}

EVERYWHERE = ((-9, -9), (999, -9), (999, 999), (-9, 999))
LABELLED_PARTS: dict[str, tuple[LabelledPart, ...]] = {
    "train": (
        LabelledPart("china", (0, 0, 230, 427), (
            ("ignore", EVERYWHERE),
            ("sky", ((0, 0), (230, 0), (230, 190), (0, 190))),
            ("building", ((193, 30), (214, 30), (230, 60), (230, 400), (150, 350), (75, 335),
                          (64, 265), (95, 245), (85, 178), (97, 120), (97, 106), (190, 68))),
            ("plants", ((0, 145), (18, 185), (72, 222), (55, 248), (0, 278))),
            ("plants", ((0, 295), (25, 320), (70, 350), (140, 332), (205, 365), (230, 395),
                        (230, 427), (0, 427))),
        )),
        LabelledPart("flower", (0, 0, 306, 362), (
            ("plants", EVERYWHERE),
            ("flower", ((306, 85), (262, 97), (215, 115), (188, 145), (176, 170), (168, 215),
                        (180, 280), (205, 315), (250, 350), (306, 359))),
        )),
        LabelledPart("chelsea", (0, 0, 256, 300), (
            ("fur", EVERYWHERE),
            ("ignore", ((0, 0), (42, 0), (32, 60), (36, 105), (0, 135))),
        )),
        LabelledPart("camera", (150, 0, 512, 210), (
            ("ignore", EVERYWHERE),
            ("sky", ((150, 0), (512, 0), (512, 110), (290, 130), (262, 90), (210, 50),
                     (160, 80), (150, 100))),
        )),
        LabelledPart("coffee", (425, 105, 600, 400), (
            ("wood", EVERYWHERE),
            ("ignore", ((425, 105), (455, 135), (478, 190), (484, 235), (470, 290), (425, 350))),
        )),
    ),
}  # fmt: skip


def draw_classes(
    size: tuple[int, int], origin: Point, polygons: tuple[tuple[str, Polygon], ...]
) -> Image.Image:
    """Return the 8-bit class map of coarse polygons, drawn in order.

    Parameters
    ----------
    size : tuple of int
        Width and height.
    origin : tuple of int
        What to subtract from the polygons' x and y.
    polygons : tuple
        Class names, or ``"ignore"``, and corners.
    """
    classes = Image.new("L", size, IGNORE)
    draw = ImageDraw.Draw(classes)
    for label, polygon in polygons:
        value = IGNORE if label == "ignore" else CLASSES.index(label)
        draw.polygon([(x - origin[0], y - origin[1]) for x, y in polygon], fill=value)
    return classes


@functools.cache
def photograph(name: str) -> np.ndarray:
    """Return one shipped photograph.

    Parameters
    ----------
    name : str
        Key of the table of files, for example ``"china"``.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8; grey photographs have three equal channels.

    Raises
    ------
    IsegError
        If the package that ships the photograph is not installed, or came without it.
    """
    package, path = _FILES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise IsegError(
            f"the photograph {path} ships with {package}, which is not installed",
            hint="pip install scikit-image scikit-learn",
        )
    file = Path(spec.origin).parent / path
    if not file.is_file():
        raise IsegError(f"{file} is missing", hint=f"reinstall the package of {package}")
    return np.asarray(Image.open(file).convert("RGB"))


def crop(photo: str, box: Box) -> np.ndarray:
    """Return the box of a photograph, shape (y1 - y0, x1 - x0, 3), uint8."""
    x0, y0, x1, y1 = box
    return photograph(photo)[y0:y1, x0:x1]


def is_grey(photo: str) -> bool:
    """Whether a photograph has no colour of its own, so that a scene must tint it."""
    return photo in {"brick", "camera", "coins", "grass", "gravel"}


@functools.cache
def cut(cutout: Cutout) -> tuple[Image.Image, Image.Image]:
    """Return a whole object and its mask.

    Returns
    -------
    tuple of PIL.Image.Image
        RGB picture and 8-bit mask of the same size; 255 is the object.
    """
    picture = Image.fromarray(crop(cutout.photo, cutout.box))
    width, height = picture.size
    if cutout.mirror:
        whole = Image.new("RGB", (2 * width, height))
        flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        whole.paste(picture if cutout.mirror == "right" else flipped, (0, 0))
        whole.paste(flipped if cutout.mirror == "right" else picture, (width, 0))
        # The flower is the only warm region of its photograph, so red minus blue outlines it.
        red, _, blue = (np.asarray(band, np.int16) for band in whole.split())
        warm = Image.fromarray(np.where(red - blue > 30, 255, 0).astype(np.uint8))
        mask = Image.new("L", whole.size)
        # Inside the petals' outermost circle only: a stem with a bud is warm as well.
        ImageDraw.Draw(mask).ellipse((width - 138, 3, width + 138, height - 3), fill=255)
        mask = ImageChops.multiply(mask, warm).filter(ImageFilter.MedianFilter(9))
        ImageDraw.Draw(mask).ellipse((width - 115, 25, width + 115, height - 25), fill=255)
        return whole, mask
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    if cutout.outline is None:
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    else:
        draw.polygon([(x - cutout.box[0], y - cutout.box[1]) for x, y in cutout.outline], fill=255)
    return picture, mask


@functools.cache
def labelled(part: LabelledPart) -> tuple[Image.Image, Image.Image]:
    """Return a part of a photograph and its coarse class map (8-bit, 255 is not labelled)."""
    picture = Image.fromarray(crop(part.photo, part.box))
    return picture, draw_classes(picture.size, part.box[:2], part.polygons)
