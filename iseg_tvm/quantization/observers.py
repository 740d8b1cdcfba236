"""What calibration remembers of a tensor: histograms of magnitudes and exact maxima, never values.

All grids are symmetric, so magnitudes suffice; a tensor's groups (heads, signs) are kept apart.
The thresholds are those of TensorRT's calibrators (Migacz 2017: maximum, percentile) and of the
clipping that minimises the mean squared error (Banner et al. 2019, arXiv 1810.05723, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BINS = 2048
LEVELS = 127
"""Steps of a symmetric int8 grid on one side of zero."""
_CANDIDATES = 100
OBSERVERS = ("minmax", "percentile", "mse")


def trusted(value: float, images: int) -> float:
    """An exponent or headroom for one calibration image, on its way to 1 as they become more."""
    return 1 + (value - 1) / images**0.5


class Histogram:
    """Magnitudes of some sub-tensors, in bins of equal width up to a growing limit.

    A group's limit starts at the first maximum seen and doubles (bins merge in pairs) when a larger
    value comes, so memory is constant and no second pass over the images is needed.

    Parameters
    ----------
    sizes : how many groups of equally many channels there are, or the channels of each

    Attributes
    ----------
    counts : int64 (groups, BINS)
    limit : float64 (groups,), upper edge of the last bin; 0 until a non-zero value was seen
    maximum : float64 (groups,), exact
    channel_maximum : float64 (channels,), exact, of the last axis of what :meth:`update` got
    """

    def __init__(self, sizes: int | Sequence[int] = 1) -> None:
        groups = sizes if isinstance(sizes, int) else len(sizes)
        self._sizes = None if isinstance(sizes, int) else list(sizes)
        self.counts = np.zeros((groups, BINS), dtype=np.int64)
        self.limit = np.zeros(groups)
        self.maximum = np.zeros(groups)
        self.channel_maximum = np.zeros(0)

    def update(self, values: Tensor) -> None:
        """Count ``values``, shape (..., channels)."""
        flat = values.detach().reshape(-1, values.shape[-1]).abs()
        if not self.channel_maximum.size:
            self.channel_maximum = np.zeros(flat.shape[1])
        self.channel_maximum = np.maximum(self.channel_maximum, flat.amax(dim=0).double().numpy())
        sizes = self._sizes or flat.shape[1] // len(self.limit)
        for g, part in enumerate(flat.split(sizes, dim=1)):
            self._count(g, part)

    def _count(self, g: int, magnitudes: Tensor) -> None:
        top = float(magnitudes.max())
        if not math.isfinite(top):
            self.maximum[g] = math.inf  # the caller names the site
            return
        self.maximum[g] = max(self.maximum[g], top)
        if self.limit[g] == 0.0:
            self.limit[g] = top
        while top > self.limit[g]:
            self.counts[g] = np.concatenate(
                [self.counts[g].reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, dtype=np.int64)]
            )
            self.limit[g] *= 2
        if self.limit[g] == 0.0:
            self.counts[g, 0] += magnitudes.numel()
            return
        index = (magnitudes.double() * (BINS / self.limit[g])).long().clamp(max=BINS - 1)
        self.counts[g] += torch.bincount(index.flatten(), minlength=BINS).numpy()

    def centres(self, g: int = 0) -> np.ndarray:
        """Middle of each bin of group ``g``."""
        return (np.arange(BINS) + 0.5) * (self.limit[g] / BINS)

    def thresholds(self, observer: str, percentile: float) -> np.ndarray:
        """Clipping magnitude of each group, positive.

        Parameters
        ----------
        observer : ``minmax``, ``percentile`` or ``mse``
        percentile : share of the values, in percent, inside the grid; only for ``percentile``

        Returns
        -------
        float64 (groups,). A group that never was anything but zero gets 1: any grid holds zero.
        """
        found = [self._threshold(g, observer, percentile) for g in range(len(self.limit))]
        return np.array([t if t > 0 else 1.0 for t in found])

    def unclipped(self) -> np.ndarray:
        """Exact maximum of each group, or 1 where it is 0 (as :meth:`thresholds`)."""
        return np.where(self.maximum > 0, self.maximum, 1.0)

    def _threshold(self, g: int, observer: str, percentile: float) -> float:
        if observer == "minmax" or self.maximum[g] == 0:
            return float(self.maximum[g])
        if observer == "percentile":
            inside = np.cumsum(self.counts[g])
            edge = int(np.searchsorted(inside, percentile / 100 * inside[-1])) + 1
            return min(float(self.maximum[g]), edge * float(self.limit[g]) / BINS)
        return self._least_squares(g)

    def _least_squares(self, g: int) -> float:
        """Threshold with the least rounding plus clipping error."""
        counts, x = self.counts[g].astype(np.float64), self.centres(g)
        candidates = self.maximum[g] * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
        over = np.maximum(x[None, :] - candidates[:, None], 0.0)
        rounding = (candidates / LEVELS)[:, None] ** 2 / 12 * (over == 0)
        return float(candidates[np.argmin((over**2 + rounding) @ counts)])


def signed_parts(values: Tensor) -> Tensor:
    """Split ``values`` (..., C) into (..., 2C): negative magnitudes, then positive ones.

    With a two-group :class:`Histogram` this keeps signs; each half holds zeros for the other's.
    """
    return torch.cat([values.clamp(max=0.0), values.clamp(min=0.0)], dim=-1)


_RUN, _RUN_WEIGHT = 16, 30.0
"""Tokens of a run, and how much more an error weighs that all of them share.

Attention averages tokens: errors of single tokens cancel, those of whole regions do not.
"""


class Moments:
    """Running moments of a linear layer's integer input and of the output it should have.

    Parameters
    ----------
    second : whether to keep the input's second moment, which takes ``4 * channels**2`` bytes
    """

    def __init__(self, second: bool) -> None:
        self._input: np.ndarray | float = 0.0
        self._target: np.ndarray | float = 0.0
        self._square: Tensor | None = None
        self._second = second
        self._rows = 0

    def update(self, integers: Tensor, target: Tensor) -> None:
        """Add rows: integers (rows, K), less their zero point; real outputs (rows, N)."""
        self._input = self._input + integers.double().sum(dim=0).numpy()
        self._target = self._target + target.double().sum(dim=0).numpy()
        self._rows += len(integers)
        if self._second:
            rows = integers.float()
            square = rows.T @ rows
            run = min(_RUN, len(rows))
            means = rows[len(rows) % run :].unflatten(0, (-1, run)).mean(dim=1)
            square += _RUN_WEIGHT * run * (means.T @ means)
            self._square = square if self._square is None else self._square.add_(square)

    @property
    def input(self) -> np.ndarray:
        """Mean input, float64 (K,)."""
        return np.asarray(self._input) / self._rows

    @property
    def target(self) -> np.ndarray:
        """Mean output, float64 (N,)."""
        return np.asarray(self._target) / self._rows

    @property
    def second(self) -> np.ndarray | None:
        """Mean of ``x x^T`` over the inputs and, with a weight, over means of runs of them.

        float64 (K, K), if it was kept.
        """
        return None if self._square is None else self._square.double().numpy() / self._rows
