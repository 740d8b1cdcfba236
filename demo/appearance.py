"""What a surface of one class looks like: texture windows, colours and light of demo scenes.

A texture window is cut out of its box of the photograph (mirrored at the borders, so that no
pixel of a neighbouring region is read), scaled, turned and recoloured.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from demo.photographs import TEXTURES, Texture, crop, is_grey

Size = tuple[int, int]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Per class: largest turn (degrees), hue shift, saturation, contrast, gain and zoom ranges.
_RANGES: dict[str, tuple[float, tuple[float, float], tuple[float, float],
                         tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "sky": (0, (-12, 12), (0.5, 1.8), (0.7, 1.2), (0.5, 1.25), (0.8, 2.5)),
    "plants": (180, (-22, 22), (0.7, 1.7), (0.7, 1.5), (0.5, 1.6), (0.5, 2.2)),
    "building": (8, (-14, 14), (0.5, 1.3), (0.8, 1.3), (0.6, 1.4), (0.5, 1.6)),
    "gravel": (180, (-10, 10), (0.0, 1.2), (0.8, 1.3), (0.6, 1.4), (0.5, 1.6)),
    "wood": (180, (-10, 14), (0.4, 1.1), (0.7, 1.3), (0.6, 1.5), (0.6, 2.2)),
    "fur": (180, (-12, 12), (0.0, 1.2), (0.7, 2.2), (0.4, 1.4), (0.6, 2.4)),
    "flower": (180, (-105, 30), (0.2, 1.4), (0.8, 1.3), (0.7, 1.3), (0.5, 1.6)),
    "coin": (180, (0, 0), (0.0, 1.0), (0.8, 1.5), (0.7, 1.4), (1.0, 1.0)),
}  # fmt: skip

# Dark and light end of the tints that a grey photograph may get, one pair a variant.
_TINTS: dict[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...]] = {
    "sky": (
        ((40, 80, 150), (150, 195, 245)),
        ((120, 130, 145), (225, 230, 240)),
        ((10, 20, 60), (90, 120, 190)),
        ((110, 70, 70), (250, 200, 160)),
    ),
    "plants": (
        ((8, 20, 4), (190, 225, 110)),
        ((15, 30, 15), (140, 200, 120)),
        ((30, 30, 5), (220, 220, 130)),
    ),
    "building": (
        ((50, 20, 15), (225, 140, 110)),
        ((60, 35, 20), (240, 195, 150)),
        ((70, 20, 25), (200, 110, 100)),
    ),
    "gravel": (
        ((10, 10, 12), (235, 235, 240)),
        ((25, 20, 15), (235, 220, 195)),
        ((20, 22, 28), (200, 210, 225)),
    ),
    "coin": (
        ((15, 15, 18), (240, 240, 245)),
        ((40, 25, 5), (255, 220, 120)),
        ((35, 15, 8), (240, 165, 110)),
    ),
}


def _hue(degrees: float) -> np.ndarray:
    """Return the 3 x 3 matrix that turns colours around the grey axis."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    third, root = (1 - cos) / 3, math.sqrt(1 / 3) * sin
    return np.array(
        [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ],
        np.float32,
    )


def recolour(
    rgb: np.ndarray, label: str, photo: str, rng: np.random.Generator, *, gentle: bool = False
) -> np.ndarray:
    """Give a surface another colour that its class may have.

    Parameters
    ----------
    rgb : numpy.ndarray
        Shape (H, W, 3), float32, 0 to 255.
    label : str
        Class whose ranges apply.
    photo : str
        Photograph that the pixels come from; a grey one is tinted.
    rng : numpy.random.Generator
        Source of the choice.
    gentle : bool, optional
        Halve all changes, for a photograph that is used as it is.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), float32, not clipped.
    """
    _, hue, saturation, contrast, gain, _ = _RANGES[label]
    turn, mix = rng.uniform(*hue), rng.uniform(*saturation)
    stretch, level = rng.uniform(*contrast), rng.uniform(*gain)
    if gentle:
        turn, mix, stretch, level = turn / 4, *(0.5 + 0.5 * v for v in (mix, stretch, level))
    if photo == "flower" and label == "plants":
        turn += rng.uniform(-80, -15)  # its leaves are teal: towards the green of other leaves
        level *= rng.uniform(1.0, 1.9)
    if is_grey(photo):
        dark, light = _TINTS[label][rng.integers(len(_TINTS[label]))]
        low = np.float32(dark)
        rgb = low + (rgb @ _LUMA / 255)[..., None] * (np.float32(light) - low)
    matrix = mix * np.eye(3, dtype=np.float32) + (1 - mix) * _LUMA[None, :]
    matrix = (_hue(turn) @ matrix).astype(np.float32)
    balance = rng.uniform(0.93, 1.07, 3).astype(np.float32)
    out = (rgb @ matrix.T) * balance
    mean = out.mean(axis=(0, 1))
    return ((out - mean) * np.float32(stretch) + mean) * np.float32(level)


def noise(rng: np.random.Generator, size: Size, cells: int) -> np.ndarray:
    """Return smooth noise of unit variance at its grid points, shape (H, W), float32."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC))


def _mirrored(start: int, count: int, length: int) -> np.ndarray:
    """Return `count` indices from `start` on that run to and fro over `0 .. length - 1`."""
    index = np.arange(start, start + count) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def texture_window(texture: Texture, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return a scaled, turned and flipped window of a texture, shape (*size, 3), float32."""
    turn, *_, zoom = _RANGES[texture.label]
    scale = math.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    angle = math.radians(rng.uniform(-turn, turn))
    source = crop(texture.photo, texture.box)
    if texture.photo == "brick":
        source = np.rot90(source)  # the file shows the wall on its side
    height, width = size
    squeeze = math.exp(rng.uniform(-0.2, 0.2))
    side = math.ceil(math.hypot(height, width) * max(1.0, squeeze) / scale) + 3
    rows = _mirrored(int(rng.integers(source.shape[0])), side, source.shape[0])
    columns = _mirrored(int(rng.integers(source.shape[1])), side, source.shape[1])
    window = Image.fromarray(source[rows][:, columns])
    if scale < 1:  # filter first: the turn below only interpolates
        side = round(side * scale)
        window, scale = window.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0), 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale * squeeze
    middle, flip = side / 2, rng.choice((-1, 1))
    placed = window.transform(
        (width, height),
        Image.Transform.AFFINE,
        (
            flip * cos, sin, middle - flip * cos * width / 2 - sin * height / 2,
            -flip * sin, cos, middle + flip * sin * width / 2 - cos * height / 2,
        ),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    return np.asarray(placed, np.float32)


def surface(label: str, split: str, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return a picture filled with one class, shape (*size, 3), float32, 0 to 255."""
    choices = [texture for texture in TEXTURES[split] if texture.label == label]
    texture = choices[rng.integers(len(choices))]
    rgb = recolour(texture_window(texture, size, rng), label, texture.photo, rng)
    if label == "sky":
        ends = rng.uniform(0.75, 1.2, (2, 3)) ** np.float32([[1.0], [0.7]])
        ramp = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
        rgb = rgb * (ends[0] * (1 - ramp) + ends[1] * ramp)[:, None, :]
    elif label in {"fur", "plants"} and rng.random() < 0.6:  # dark patches, deep shade
        depth = rng.uniform(0.2, 0.6)
        rgb = (
            rgb
            * np.clip(1 + depth * noise(rng, size, int(rng.integers(3, 8))), 0.12, 1.6)[..., None]
        )
    return np.clip(rgb, 0, 255).astype(np.float32)


def photograph_it(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply light, camera curve, white balance and noise.

    Returns
    -------
    numpy.ndarray
        Same shape, uint8.
    """
    size = rgb.shape[:2]
    light = 1 + rng.uniform(0.0, 0.18) * noise(rng, size, 3)
    balance = rng.uniform(0.92, 1.08, 3).astype(np.float32) * rng.uniform(0.8, 1.15)
    out = np.clip(rgb * light[..., None] * balance / 255, 0, 1) ** np.float32(
        rng.uniform(0.75, 1.35)
    )
    grain = rng.standard_normal((*size, 3), dtype=np.float32) * np.float32(rng.uniform(0, 6))
    return np.clip(out * 255 + grain, 0, 255).round().astype(np.uint8)
