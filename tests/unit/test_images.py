"""Pictures of every kind become RGB photos; what is no picture becomes a clear error."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.images import (
    find_images,
    load_photo,
    photo_to_array,
    resize_class_map,
    save_image,
    save_mask,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def photo() -> Image.Image:
    """A picture with a red upper left corner on blue, 6 wide and 4 high."""
    image = Image.new("RGB", (6, 4), BLUE)
    image.putpixel((0, 0), RED)
    return image


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_unchanged(photo: Image.Image, tmp_path: Path) -> None:
    loaded = load_photo(saved(photo, tmp_path / "a.png"))
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(photo))


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (5, 0)), (3, (5, 3)), (4, (0, 3)), (6, (3, 0)), (8, (0, 5))],
)
def test_exif_orientation(
    photo: Image.Image, tmp_path: Path, orientation: int, corner: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_photo(saved(photo, tmp_path / "a.png", exif=exif))
    assert loaded.size == ((4, 6) if orientation >= 5 else (6, 4))
    assert loaded.getpixel(corner) == RED


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    loaded = load_photo(saved(image, tmp_path / "a.png"))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_transparent_palette_picture(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.putpixel((1, 0), 1)
    loaded = load_photo(saved(image, tmp_path / "a.png", transparency=1))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(200, 100, 50), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_other_modes(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 4), "white").convert(mode)
    suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
    loaded = load_photo(saved(image, tmp_path / f"a{suffix}"))
    assert (loaded.mode, loaded.size, loaded.getpixel((4, 3))) == ("RGB", (5, 4), (255,) * 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    loaded = load_photo(saved(Image.fromarray(deep), tmp_path / f"a{suffix}"))
    assert np.asarray(loaded)[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "a.tif")
    with pytest.raises(IsegError, match="floating-point pixels"):
        load_photo(path)


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(IsegError, match="is not a picture"):
        load_photo(tmp_path / "a.png")
    with pytest.raises(IsegError, match="does not exist"):
        load_photo(tmp_path / "absent.png")
    with pytest.raises(IsegError, match="is a folder"):
        load_photo(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_picture(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(IsegError, match="is a damaged picture"):
        load_photo(path)


def test_decompression_bomb(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(photo, tmp_path / "a.png")
    for limit in (3, 15):  # 24 pixels: more than twice the limit is Pillow's error, else a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(IsegError, match="too large"):
            load_photo(path)


def test_resizing(photo: Image.Image) -> None:
    array = photo_to_array(photo, (8, 3))
    assert (array.shape, array.dtype) == ((8, 3, 3), np.uint8)
    np.testing.assert_array_equal(photo_to_array(photo, (4, 6)), np.asarray(photo))
    class_map = np.array([[3, 7], [200, 0]], np.uint8)
    expected = class_map.repeat(3, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(resize_class_map(class_map, (6, 4)), expected)


def test_find_images(photo: Image.Image, tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt", ".hidden"):
        photo.save(tmp_path / name, format="png")
    (tmp_path / "folder.png").mkdir()
    named = tmp_path / "c.txt"
    assert find_images([tmp_path]) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert find_images([named, tmp_path])[0] == named


def test_find_no_images(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="has no pictures"):
        find_images([tmp_path])
    with pytest.raises(IsegError, match="does not exist"):
        find_images([tmp_path / "absent"])
    with pytest.raises(IsegError, match="no pictures were named"):
        find_images([])


def test_mask_keeps_indices_and_colours(tmp_path: Path) -> None:
    class_map = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = [(i, 255 - i, 7) for i in range(256)]
    save_mask(class_map, palette, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), class_map)
        assert mask.convert("RGB").getpixel((5, 0)) == (5, 250, 7)


def test_wrong_names_for_output(photo: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="no picture format"):
        save_image(photo, tmp_path / "a.docx")
    with pytest.raises(IsegError, match="a mask is written as PNG"):
        save_mask(np.zeros((2, 2), np.uint8), [RED], tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IsegError, match="No space left"):
        save_image(photo, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
