"""Resizing of the integer position embedding, in integers (numpy only)."""

from __future__ import annotations

import numpy as np

from iseg_tvm.fixed_point import RangeError, floor_divide_rounding


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left index, right index and right weight in units of ``1 / (2 * target)`` of each output.

    Bilinear with half-pixel centres (``align_corners=False``): output i reads source position
    ``(i + 1/2) * source / target - 1/2``, clamped at 0, exactly as PyTorch's ``interpolate``.
    """
    unit = 2 * target
    position = np.maximum((2 * np.arange(target, dtype=np.int64) + 1) * source - target, 0)
    left = np.minimum(position // unit, source - 1)
    return left, np.minimum(left + 1, source - 1), position - left * unit


def resize_position_embedding(
    embedding: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]
) -> np.ndarray:
    """Bilinear resize of an int16 position embedding, rounded half up.

    Parameters
    ----------
    embedding : int16 (gh * gw, D)
    grid, new_grid : (rows, columns) of patches before and after

    Returns
    -------
    int16 (new rows * new columns, D). Weights are exact rationals; no int64 overflow, as sums are
    convex combinations of int16 values scaled by ``4 * new rows * new columns < 2**40``.

    Raises
    ------
    RangeError
        If the embedding is no int16 matrix of ``rows * columns`` tokens.
    """
    if embedding.dtype != np.int16 or embedding.shape[:1] != (grid[0] * grid[1],):
        raise RangeError(
            f"position embedding: {embedding.dtype}{list(embedding.shape)} is not int16 for a grid"
            f" of {grid[0]} x {grid[1]} patches"
        )
    # The official models resize only when the number of patches differs.
    if grid[0] * grid[1] == new_grid[0] * new_grid[1]:
        return embedding
    table = embedding.astype(np.int64).reshape(*grid, -1)
    top, bottom, down = _taps(grid[0], new_grid[0])
    left, right, across = _taps(grid[1], new_grid[1])
    unit_y, unit_x = 2 * new_grid[0], 2 * new_grid[1]
    down, across = down[:, None, None], across[None, :, None]
    rows = table[top] * (unit_y - down) + table[bottom] * down
    mixed = rows[:, left] * (unit_x - across) + rows[:, right] * across
    result = floor_divide_rounding(mixed, unit_y * unit_x)
    return result.astype(np.int16).reshape(-1, embedding.shape[-1])
