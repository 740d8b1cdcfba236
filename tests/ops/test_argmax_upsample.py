"""``argmax_upsample``: class of every pixel from the patches' scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from relay_ops import argmax_upsample
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    rejects,
)

SIZES = [(1, 1, 1), (32, 48, 16), (37, 50, 8), (5, 33, 14), (3, 2, 7)]  # height, width, patch


def patches(height: int, width: int, patch: int) -> int:
    return -(-height // patch) * -(-width // patch)


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.parametrize("classes", [1, 2, 19, 256])
@pytest.mark.parametrize(("height", "width", "patch"), SIZES)
def test_random(height: int, width: int, patch: int, classes: int, dtype: str) -> None:
    scores = integers(classes, dtype, patches(height, width, patch), classes)
    agree("argmax_upsample", scores, patch=patch, height=height, width=width)


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_extreme(pattern: str, dtype: str) -> None:
    scores = filled(pattern, dtype, patches(7, 10, 4), 5)
    agree_with_scalars("argmax_upsample", scores, patch=4, height=7, width=10)


def test_lowest_of_equals_wins() -> None:
    scores = np.array([[3, 7, 7, 1], [-1, -1, -1, -1]], np.int16)
    assert agree("argmax_upsample", scores, patch=1, height=1, width=2).tolist() == [[1, 0]]


@few
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 6),
    st.integers(0, 3), st.integers(0, 10**6),
)  # fmt: skip
def test_property(
    height: int, width: int, patch: int, classes: int, spread: int, seed: int
) -> None:
    """Few distinct scores, so that ties are frequent."""
    count = patches(height, width, patch)
    scores = integers(seed, "int32", count, classes, low=-spread, high=spread)
    agree_with_scalars("argmax_upsample", scores, patch=patch, height=height, width=width)


def test_equals_the_argmax_of_upsampled_scores() -> None:
    height, width, patch, classes = 21, 30, 6, 11
    scores = integers(5, "int16", patches(height, width, patch), classes)
    grid = torch.from_numpy(scores.astype(np.float64)).T.reshape(1, classes, 4, 5)
    large = torch.nn.functional.interpolate(grid, scale_factor=patch, mode="nearest")
    expected = large[0, :, :height, :width].numpy().argmax(axis=0)
    got = agree("argmax_upsample", scores, patch=patch, height=height, width=width)
    np.testing.assert_array_equal(got, expected)


def test_ranges() -> None:
    with pytest.raises(RangeError, match="classes"):
        argmax_upsample.reference(np.zeros((1, 257), np.int16), 1, 1, 1)


def test_rejections() -> None:
    scores = np.zeros((6, 4), np.int16)
    good, name = {"patch": 4, "height": 7, "width": 10}, "argmax_upsample"
    agree(name, scores, **good)
    rejects(name, [scores.astype(np.int8)], good, "'scores'", "int16 or int32", "int8[6, 4]")
    rejects(name, [scores[0]], good, "'scores'", "int16[4]")
    rejects(name, [scores[:5]], good, "5 rows", "2 x 3")
    rejects(name, [np.zeros((6, 257), np.int16)], good, "257 classes", "[1, 256]")
    rejects(name, [scores[:, :0]], good, "0 classes")
    rejects(name, [scores], {**good, "patch": 105}, "'patch'", "[1, 104]")
    rejects(name, [scores], {**good, "height": 0}, "'height'", "0")
    rejects(name, [scores], {**good, "width": 2**16 + 1}, "'width'", "65537")
