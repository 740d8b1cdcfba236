"""Integer resizing of position embeddings against PyTorch's interpolation in float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from iseg_tvm.position_embedding import resize_position_embedding

GRIDS = [(4, 4), (1, 1), (3, 7), (24, 24), (5, 2), (37, 11)]


def embedding(grid: tuple[int, int], width: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**15), 2**15, (grid[0] * grid[1], width)).astype(np.int16)


def interpolated(x: np.ndarray, grid: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    image = torch.from_numpy(x.astype(np.float64)).T.reshape(1, -1, *grid)
    large = torch.nn.functional.interpolate(image, new, mode="bilinear", align_corners=False)
    return large[0].flatten(1).T.numpy()


@pytest.mark.parametrize("new", GRIDS)
@pytest.mark.parametrize("grid", GRIDS)
def test_within_half_a_step_of_the_interpolation(
    grid: tuple[int, int], new: tuple[int, int]
) -> None:
    x = embedding(grid)
    got = resize_position_embedding(x, grid, new)
    assert (got.dtype, got.shape) == (np.int16, (new[0] * new[1], 5))
    assert np.abs(got - interpolated(x, grid, new)).max() <= 0.5 + 1e-6


def test_same_grid_is_the_identity() -> None:
    x = embedding((3, 7))
    np.testing.assert_array_equal(resize_position_embedding(x, (3, 7), (3, 7)), x)


def test_same_number_of_patches_is_not_resized() -> None:
    """As the official implementation, which compares numbers of tokens."""
    x = embedding((2, 6))
    np.testing.assert_array_equal(resize_position_embedding(x, (2, 6), (3, 4)), x)


def test_rows_and_columns_are_not_confused() -> None:
    """A ramp along the columns stays one along the columns of another non-square grid."""
    x = np.tile(np.arange(4, dtype=np.int16) * 1000, 2)[:, None]
    got = resize_position_embedding(x, (2, 4), (3, 8)).reshape(3, 8)
    assert got.tolist() == [[0, 250, 750, 1250, 1750, 2250, 2750, 3000]] * 3


def test_extremes_do_not_wrap() -> None:
    for value in (-(2**15), 2**15 - 1):
        x = np.full((6, 1), value, np.int16)
        assert (resize_position_embedding(x, (2, 3), (31, 64)) == value).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
def test_rounds_half_up_exactly(source: int, target: int, seed: int) -> None:
    """One axis, in exact rationals."""
    x = embedding((source, 1), 1, seed)[:, 0]
    got = resize_position_embedding(x[:, None], (source, 1), (target, 1))[:, 0]
    for i in range(target):
        place = max(Fraction(2 * i + 1, 2) * source / target - Fraction(1, 2), Fraction(0))
        left = min(int(place), source - 1)
        right = min(left + 1, source - 1)
        exact = int(x[left]) + (place - left) * (int(x[right]) - int(x[left]))
        assert got[i] == (exact + Fraction(1, 2)).__floor__()


def test_wrong_embedding_is_refused() -> None:
    for bad in (embedding((3, 4)), embedding((3, 3)).astype(np.int32)):
        with pytest.raises(RangeError, match="3 x 3 patches"):
            resize_position_embedding(bad, (3, 3), (4, 4))
