"""Rounding a weight matrix so that a layer's output, not each weight, moves least (numpy only).

GPTQ (Frantar et al. 2023, arXiv 2210.17323, algorithm 1), which is Optimal Brain Surgeon's update
(Hassibi and Stork 1993) column by column: each column is rounded to nearest, and what that changes
in the output is made good by the columns not yet rounded, as far as the inputs are correlated.
"""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray
LARGEST = 127
DAMPING = 0.3
"""Share of the mean square input that is added to every input's own.

GPTQ's 0.01 learns one photograph by heart: 0.01 to 0.3 of the error of rounding to nearest remain
on it, but 1.0 to 2.0 on others; with 0.3 it is 0.1 to 0.35, and 0.5 to 1.1 on others.
"""
_BLOCK = 64


def round_to_nearest(weight: Array) -> Array:
    """Each weight by itself, half up, within [-127, 127]."""
    return np.clip(np.floor(weight + 0.5), -LARGEST, LARGEST)


def round_with_feedback(weight: Array, second_moment: Array) -> Array:
    """Integers ``q`` that nearly minimise ``tr((weight - q) H (weight - q)^T)``.

    Parameters
    ----------
    weight : float64 (N, K), in steps of each row's grid
    second_moment : float64 (K, K), ``H``: mean of ``x x^T`` over calibration inputs

    Returns
    -------
    float64 (N, K), whole numbers in [-127, 127]; to nearest where the inputs were all zero
    """
    power = np.diagonal(second_moment)
    if not power.any():
        return round_to_nearest(weight)
    order = np.argsort(-power, kind="stable")
    damped = second_moment[np.ix_(order, order)] + np.eye(len(order)) * (DAMPING * power.mean())
    # Row j of the inverse's upper Cholesky factor: how the columns after j make good for j.
    factor = _inverse_factor(damped)
    # Transposed: a column of weights lies in one piece.
    rest, result = weight.T[order], np.empty(weight.shape[::-1])
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = np.empty((stop - start, len(weight)))
        for j in range(start, stop):
            chosen = result[order[j]] = round_to_nearest(rest[j])
            errors[j - start] = (rest[j] - chosen) / factor[j, j]
            rest[j + 1 : stop] -= factor[j, j + 1 : stop, None] * errors[j - start]
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return np.ascontiguousarray(result.T)


def _inverse_factor(matrix: np.ndarray) -> np.ndarray:
    """Upper triangular ``U`` with ``U^T U`` the inverse of a positive definite matrix."""
    # matrix = R R^T with R upper triangular: Cholesky with rows and columns in reverse.
    lower = torch.linalg.cholesky(torch.from_numpy(np.ascontiguousarray(matrix[::-1, ::-1])))
    upper = lower.flip(0, 1)
    inverse: np.ndarray = torch.linalg.solve_triangular(
        upper, torch.eye(len(matrix), dtype=torch.float64), upper=True
    ).numpy()
    return inverse
