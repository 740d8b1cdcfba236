"""``patch_embed``: the image's patches times an int8 matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from relay_ops import patch_embed
from relay_ops.linear import BIAS_MAX, K_MAX
from relay_ops.patch_embed import PATCH_MAX
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    rejects,
)

PAD = [124, 116, 104]


def layer(seed: int, height: int, width: int, patch: int, columns: int) -> list[np.ndarray]:
    return [
        integers(seed, "uint8", height, width, 3),
        integers(seed + 1, "int8", columns, 3 * patch * patch, low=-127),
        integers(seed + 2, "int32", columns, low=-BIAS_MAX, high=BIAS_MAX),
    ]


@pytest.mark.parametrize(
    ("height", "width", "patch"), [(1, 1, 1), (32, 48, 16), (37, 50, 8), (5, 33, 14), (3, 2, 7)]
)
def test_random(height: int, width: int, patch: int) -> None:
    agree("patch_embed", *layer(1, height, width, patch, 19), patch=patch, pad=PAD)


@pytest.mark.parametrize("weight", PATTERNS)
@pytest.mark.parametrize("image", PATTERNS)
def test_extreme(image: str, weight: str) -> None:
    pixels = filled(image, "uint8", 5, 7, 3)
    matrix = filled(weight, "int8", 2, 48, low=-127)
    bias = np.array([-BIAS_MAX, BIAS_MAX], np.int32)
    agree_with_scalars("patch_embed", pixels, matrix, bias, patch=4, pad=[0, 255, 128])


@few
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4),
    st.integers(0, 10**6),
)  # fmt: skip
def test_property(height: int, width: int, patch: int, columns: int, seed: int) -> None:
    tensors = layer(seed, height, width, patch, columns)
    agree_with_scalars("patch_embed", *tensors, patch=patch, pad=PAD)


def test_is_the_convolution_of_the_shifted_image() -> None:
    image, weight, bias = layer(3, 12, 8, 4, 6)
    kernel = torch.from_numpy(weight.astype(np.float64)).reshape(6, 4, 4, 3).permute(0, 3, 1, 2)
    pixels = torch.from_numpy(image.astype(np.float64) - 128).permute(2, 0, 1)[None]
    conv = torch.conv2d(pixels, kernel, torch.from_numpy(bias.astype(np.float64)), stride=4)
    result = agree("patch_embed", image, weight, bias, patch=4, pad=PAD)
    np.testing.assert_array_equal(result, conv[0].flatten(1).T.numpy())


def test_largest_patch_keeps_the_inner_dimension() -> None:
    assert 3 * PATCH_MAX**2 <= K_MAX < 3 * (PATCH_MAX + 1) ** 2


def test_ranges() -> None:
    image, weight, bias = layer(0, 4, 4, 2, 3)
    with pytest.raises(RangeError, match="weight"):
        patch_embed.reference(image, np.full_like(weight, -128), bias, 2, PAD)
    with pytest.raises(RangeError, match="bias"):
        patch_embed.reference(image, weight, np.full_like(bias, -BIAS_MAX - 1), 2, PAD)


def test_rejections() -> None:
    image, weight, bias = layer(0, 4, 4, 2, 3)
    good, name = {"patch": 2, "pad": PAD}, "patch_embed"
    rejects(name, [image.astype(np.int8), weight, bias], good, "'image'", "uint8[*, *, 3]")
    rejects(name, [image[..., :1], weight, bias], good, "'image'", "uint8[4, 4, 1]")
    rejects(name, [image[0], weight, bias], good, "'image'", "uint8[4, 3]")
    rejects(name, [image[:0], weight, bias], good, "0 x 4", "empty")
    rejects(name, [image, weight[:, :11], bias], good, "'weight'", "int8[*, 12]", "int8[3, 11]")
    rejects(name, [image, weight, bias[:2]], good, "'bias'", "int32[3]", "int32[2]")
    rejects(name, [image, weight, bias], {**good, "patch": 0}, "'patch'", "[1, 104]")
    rejects(name, [image, weight, bias], {**good, "pad": [1, 2]}, "'pad'", "[1, 2]")
    rejects(name, [image, weight, bias], {**good, "pad": [1, 2, 256]}, "'pad'", "256")
