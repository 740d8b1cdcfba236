"""Generated scenes with perfect labels: the training and test data of the demo model.

A scene is composed back to front from surfaces of :mod:`demo.appearance`, cut-out objects and
drawn shapes; the class map is painted with the same masks. It is a pure function of split, seed
and size.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.appearance import Size, noise, photograph_it, recolour, surface
from demo.photographs import CLASSES, CUTOUTS, IGNORE, LABELLED_PARTS, SPLITS, cut, labelled

_OVERSAMPLING = 2


class _Canvas:
    """A picture and its class map, painted with soft masks of shape (H, W), 0 to 1."""

    def __init__(self, split: str, size: Size, background: str, rng: np.random.Generator) -> None:
        self.split, self.size, self.rng = split, size, rng
        self.rgb = self.fill(background)
        self.labels = np.full(size, CLASSES.index(background), np.uint8)

    def fill(self, label: str) -> np.ndarray:
        return surface(label, self.split, self.size, self.rng)

    def paint(self, mask: np.ndarray, rgb: np.ndarray, label: str) -> None:
        if self.rng.random() < 0.5:
            self._shade(mask)
        self.rgb += (rgb - self.rgb) * mask[..., None]
        self.labels[mask > 0.5] = CLASSES.index(label)

    def _shade(self, mask: np.ndarray) -> None:
        """Darken what lies behind a shape, as its shadow does."""
        radius = max(self.size) / 40
        soft = Image.fromarray((mask * 255).astype(np.uint8))
        soft = soft.filter(ImageFilter.GaussianBlur(radius * self.rng.uniform(0.3, 1)))
        x, y = self.rng.uniform(-radius, radius, 2)
        soft = soft.transform(soft.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))
        shadow = np.asarray(soft, np.float32) / 255
        self.rgb *= 1 - self.rng.uniform(0.2, 0.6) * shadow[..., None]


def _drawn(size: Size, points: np.ndarray) -> np.ndarray:
    """Return the anti-aliased mask of a polygon, points of shape (P, 2) as x, y in pixels."""
    image = Image.new("L", (size[1] * _OVERSAMPLING, size[0] * _OVERSAMPLING))
    ImageDraw.Draw(image).polygon([tuple(p) for p in points * _OVERSAMPLING], fill=255)
    return np.asarray(image.reduce(_OVERSAMPLING), np.float32) / 255


def _ragged(mask: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Return a mask whose edge is broken up, as hair and leaves do."""
    soft = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(amount))
    rough = noise(rng, mask.shape, max(8, min(mask.shape) // 4))
    return np.clip(
        (np.asarray(soft, np.float32) / 255 - 0.5 + 0.16 * np.clip(rough, -2, 2)) * 4 + 0.5, 0, 1
    )


def _blob(rng: np.random.Generator, radius: float, centre: np.ndarray) -> np.ndarray:
    """Return the outline of a smooth or cornered closed shape, shape (P, 2)."""
    corners = int(rng.choice((4, 5, 7, 64), p=(0.15, 0.1, 0.1, 0.65)))
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    if corners < 64:
        angle = np.sort(rng.uniform(0, 2 * math.pi, corners))
    wave = sum(
        rng.uniform(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(1, 5)
    )
    stretch = np.exp(rng.uniform(-0.4, 0.4)) ** np.array([1, -1])
    spoke = radius * (1 + wave)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) * stretch
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    return spoke @ np.array([[cos, sin], [-sin, cos]]) + centre


def _somewhere(canvas: _Canvas, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return a random point, x and y in pixels; `low` and `high` bound its height."""
    height, width = canvas.size
    return np.array([canvas.rng.uniform(0, width), canvas.rng.uniform(low, high) * height])


def _patch(canvas: _Canvas, label: str, radius: float, centre: np.ndarray) -> None:
    """Paint a free shape of one class."""
    rng = canvas.rng
    mask = _drawn(canvas.size, _blob(rng, radius, centre))
    if label in {"fur", "plants"} or rng.random() < 0.15:
        mask = _ragged(mask, rng, rng.uniform(1, 4))
    canvas.paint(mask, canvas.fill(label), label)


def _object(canvas: _Canvas, label: str, diameter: float, centre: np.ndarray) -> None:
    """Paste a cut-out object of one class, turned and recoloured."""
    rng = canvas.rng
    choices = [cutout for cutout in CUTOUTS[canvas.split] if cutout.label == label]
    cutout = choices[rng.integers(len(choices))]
    picture, mask = cut(cutout)
    factor = diameter / max(picture.size)
    ratio = math.exp(rng.uniform(-0.15, 0.15))
    shape = tuple(
        max(8, round(s * f))
        for s, f in zip(picture.size, (factor * ratio, factor / ratio), strict=True)
    )
    angle = rng.uniform(-35, 35) if label == "fur" else rng.uniform(-180, 180)
    flip = rng.random() < 0.5
    layers = []
    for layer in (picture, mask):
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else layer
        layer = layer.resize(shape, Image.Resampling.BILINEAR)
        layers.append(layer.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    corner = tuple(int(c - s / 2) for c, s in zip(centre, layers[0].size, strict=True))
    colours = np.clip(recolour(np.asarray(layers[0], np.float32), label, cutout.photo, rng), 0, 255)
    rgb = Image.new("RGB", canvas.size[::-1])
    rgb.paste(Image.fromarray(colours.astype(np.uint8)), corner)
    cover = Image.new("L", canvas.size[::-1])
    cover.paste(layers[1], corner)
    opacity = np.asarray(cover, np.float32) / 255
    if label == "fur":
        opacity *= _ragged(opacity, rng, rng.uniform(1, 3))
    canvas.paint(opacity, np.asarray(rgb, np.float32), label)


def _leaves(canvas: _Canvas, count: int) -> None:
    """Paint long curved leaves, each with its own light and veins; all are plants."""
    rng, (height, width) = canvas.rng, canvas.size
    light = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    draw = ImageDraw.Draw(light)
    heading = rng.uniform(0, 2 * math.pi)
    for _ in range(count):
        root, length = _somewhere(canvas), max(canvas.size) * rng.uniform(0.4, 1.2)
        bend, breadth = rng.uniform(-0.5, 0.5), max(canvas.size) * rng.uniform(0.04, 0.13)
        turn = heading + rng.normal(0, 0.6)
        along = np.linspace(0, 1, 24)
        spine_x, spine_y = along * length, bend * length * along**2
        half = breadth / 2 * np.sin(math.pi * np.clip(along * 0.85 + 0.15, 0, 1)) ** 0.6
        axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        value = rng.uniform(70, 220)
        for step, (low, high) in enumerate(((-1, 1), *((v, v) for v in rng.uniform(-0.9, 0.9, 7)))):
            edges = [np.stack([spine_x, spine_y + side * half], 1) for side in (low, high)]
            edges = [(edge @ axes + root) * _OVERSAMPLING for edge in edges]
            if step == 0:
                outline = np.concatenate([edges[0], edges[1][::-1]])
                draw.polygon([tuple(p) for p in outline], fill=int(value))
            else:
                shade = int(np.clip(value * rng.uniform(0.7, 1.35), 1, 255))
                draw.line([tuple(p) for p in edges[0]], fill=shade, width=int(rng.integers(1, 6)))
    values = np.asarray(light.reduce(_OVERSAMPLING), np.float32)
    cover = np.asarray(light.point(lambda v: 255 if v else 0).reduce(_OVERSAMPLING), np.float32)
    flat = canvas.fill("plants")
    flat += (flat.mean(axis=(0, 1)) - flat) * np.float32(rng.uniform(0.2, 0.95))
    rgb = np.clip(flat * (values / 140)[..., None], 0, 255)
    canvas.paint(cover / 255, rgb, "plants")


def _building(canvas: _Canvas, base: float) -> None:
    """Paint a house front that stands on height `base` (pixels)."""
    rng, (height, width) = canvas.rng, canvas.size
    left, breadth = rng.uniform(-0.2, 0.9) * width, rng.uniform(0.2, 0.6) * width
    top, gable = base - rng.uniform(0.15, 0.55) * height, rng.uniform(0, 0.2) * height
    points = np.array(
        [[left, base + 4], [left, top], [left + breadth / 2, top - gable],
         [left + breadth, top], [left + breadth, base + 4]]
    )  # fmt: skip
    canvas.paint(_drawn(canvas.size, points), canvas.fill("building"), "building")


def _ground(canvas: _Canvas, label: str, horizon: float) -> None:
    """Paint everything below a wavy line; `horizon` in pixels from the top."""
    rng, (height, width) = canvas.rng, canvas.size
    wave = noise(rng, (4, width), int(rng.integers(3, 9)))[1] * rng.uniform(0, 0.04) * height
    slope = rng.uniform(-0.1, 0.1) * (np.arange(width) - width / 2)
    line = horizon + wave + slope
    mask = np.clip(np.arange(height)[:, None] - line[None, :] + 0.5, 0, 1).astype(np.float32)
    if label == "plants":
        mask = _ragged(mask, rng, rng.uniform(1, 3))
    canvas.paint(mask, canvas.fill(label), label)


def _furnish(canvas: _Canvas, count: int, low: float = 0.0) -> None:
    """Put objects anywhere below the relative height `low`."""
    rng, unit = canvas.rng, min(canvas.size)
    for _ in range(count):
        label = str(rng.choice(("coin", "flower", "fur"), p=(0.4, 0.3, 0.3)))
        if label == "fur" and rng.random() < 0.6:
            _patch(canvas, label, unit * rng.uniform(0.12, 0.4), _somewhere(canvas, low))
            continue
        span = {"coin": (0.14, 0.4), "flower": (0.2, 0.65), "fur": (0.3, 0.9)}[label]
        _object(canvas, label, unit * rng.uniform(*span), _somewhere(canvas, low))


def _landscape(split: str, size: Size, rng: np.random.Generator) -> _Canvas:
    canvas = _Canvas(split, size, "sky", rng)
    horizon = rng.uniform(0.3, 0.75)
    for _ in range(rng.integers(0, 3)):
        _building(canvas, horizon * size[0])
    for _ in range(rng.integers(0, 3)):
        centre = _somewhere(canvas, horizon - 0.15, horizon + 0.05)
        _patch(canvas, "plants", min(size) * rng.uniform(0.1, 0.3), centre)
    _ground(canvas, str(rng.choice(("plants", "gravel", "wood"), p=(0.5, 0.35, 0.15))),
            horizon * size[0])  # fmt: skip
    if rng.random() < 0.4:
        nearer = rng.uniform(horizon, 1) * size[0]
        _ground(canvas, str(rng.choice(("plants", "gravel", "wood"))), nearer)
    _furnish(canvas, int(rng.integers(0, 4)), horizon - 0.1)
    return canvas


def _close_up(split: str, size: Size, rng: np.random.Generator) -> _Canvas:
    background = str(rng.choice(("plants", "building", "gravel", "wood", "sky"),
                                p=(0.4, 0.15, 0.17, 0.18, 0.1)))  # fmt: skip
    canvas = _Canvas(split, size, background, rng)
    if background == "plants" and rng.random() < 0.6:
        _leaves(canvas, int(rng.integers(3, 14)))
    if rng.random() < 0.3:
        _patch(canvas, "fur", min(size) * rng.uniform(0.3, 0.6), _somewhere(canvas))
    _furnish(canvas, int(rng.integers(1, 5)))
    if rng.random() < 0.25:
        _leaves(canvas, int(rng.integers(1, 5)))
    return canvas


def _mosaic(split: str, size: Size, rng: np.random.Generator) -> _Canvas:
    names = [name for name in CLASSES if name != "coin"]
    canvas = _Canvas(split, size, str(rng.choice(names)), rng)
    for _ in range(rng.integers(2, 7)):
        radius = min(size) * rng.uniform(0.12, 0.5)
        _patch(canvas, str(rng.choice(names)), radius, _somewhere(canvas))
    _furnish(canvas, int(rng.integers(0, 3)))
    return canvas


def scene(split: str, seed: int, size: Size = (256, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Compose one scene.

    Parameters
    ----------
    split : str
        ``"train"`` or ``"held_out"``: the regions of the photographs that may be used.
    seed : int
        At least 0. The same split, seed and size give the same scene.
    size : tuple of int, optional
        Height and width in pixels.

    Returns
    -------
    tuple of numpy.ndarray
        Image of shape (H, W, 3), uint8, RGB; class map of shape (H, W), uint8, indices into
        :data:`demo.photographs.CLASSES`.

    Raises
    ------
    ValueError
        If the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    layout = (_landscape, _close_up, _mosaic)[rng.choice(3, p=(0.35, 0.45, 0.2))]
    canvas = layout(split, size, rng)
    rgb = canvas.rgb
    if rng.random() < 0.5:
        soft = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
        soft = soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2)))
        rgb = np.asarray(soft, np.float32)
    return photograph_it(rgb, rng), canvas.labels


def photograph_part(seed: int, size: Size = (256, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Cut a window out of the training part of a real photograph, with coarse labels.

    Parameters
    ----------
    seed : int
        At least 0.
    size : tuple of int, optional
        Height and width in pixels.

    Returns
    -------
    tuple of numpy.ndarray
        As :func:`scene`; pixels without a label are :data:`demo.photographs.IGNORE`.
    """
    rng = np.random.default_rng([len(SPLITS), seed])
    parts = LABELLED_PARTS["train"]
    part = parts[rng.integers(len(parts))]
    picture, classes = labelled(part)
    side = min(picture.size) * rng.uniform(0.5, 1.0)
    x, y = (rng.uniform(0, extent - side) for extent in picture.size)
    box = (x, y, x + side, y + side) if rng.random() < 0.5 else (x + side, y, x, y + side)
    window = picture.transform(size[::-1], Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    target = classes.transform(size[::-1], Image.Transform.EXTENT, box, Image.Resampling.NEAREST)
    labels = np.asarray(target)
    kinds = [c for c in np.unique(labels) if c != IGNORE]
    label = CLASSES[kinds[rng.integers(len(kinds))]] if len(kinds) == 1 else "building"
    rgb = recolour(np.asarray(window, np.float32), label, part.photo, rng, gentle=label != "fur")
    return photograph_it(np.clip(rgb, 0, 255), rng), labels
