"""The picture and class map a bundle carries."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.bundle import MANIFEST_NAME, read_bundle
from iseg_tvm.errors import IsegError
from iseg_tvm.files import sha256_file
from iseg_tvm.sample import EXPECTED_NAME, SAMPLE_NAME, Sample, built_in_picture, read_sample


def test_round_trip_and_other_readers(tmp_path: Path) -> None:
    image = built_in_picture(21, 30)
    class_map = image[..., 0] % 7
    Sample(image, class_map).write(tmp_path)
    read = read_sample(tmp_path)
    np.testing.assert_array_equal(read.image, image)
    np.testing.assert_array_equal(read.class_map, class_map)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / SAMPLE_NAME)), image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / EXPECTED_NAME)), class_map)


def test_pixels_that_look_like_the_header(tmp_path: Path) -> None:
    image = np.full((2, 3, 3), ord("\n"), np.uint8)
    Sample(image, image[..., 0]).write(tmp_path)
    np.testing.assert_array_equal(read_sample(tmp_path).image, image)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (21, 30), (512, 512)])
def test_built_in_picture(size: tuple[int, int]) -> None:
    image = built_in_picture(*size)
    assert (image.dtype, image.shape) == (np.uint8, (*size, 3))
    if min(size) > 1:
        assert len(np.unique(image)) > 50


def test_damaged(tmp_path: Path) -> None:
    Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)).write(tmp_path)
    path = tmp_path / EXPECTED_NAME
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IsegError, match=r"cannot read .*expected\.pgm"):
        read_sample(tmp_path)


def test_a_bundle_carries_it(toy_bundle: Path, toy_bundle_with_sample: Path) -> None:
    assert read_bundle(toy_bundle).sample() is None
    sample = read_bundle(toy_bundle_with_sample).sample()
    assert sample is not None
    np.testing.assert_array_equal(sample.class_map, np.minimum(sample.image.max(axis=2), 2))


def test_a_bundle_whose_sample_was_altered(toy_bundle_with_sample: Path) -> None:
    (toy_bundle_with_sample / SAMPLE_NAME).write_bytes(b"P6\n6 8\n255\n" + bytes(144))
    with pytest.raises(IsegError, match=r"sample\.ppm is damaged"):
        read_bundle(toy_bundle_with_sample)


def test_a_sample_of_another_size(toy_bundle_with_sample: Path) -> None:
    folder = toy_bundle_with_sample
    Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)).write(folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    for name in (SAMPLE_NAME, EXPECTED_NAME):
        path = folder / name
        manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(IsegError, match="another size"):
        read_bundle(folder).sample()
