"""Segmentation metrics of a confusion matrix, defined as mmsegmentation's ``mean_iou`` is.

With ``hits`` the diagonal, ``truth`` the row sums and ``predicted`` the column sums, over all
images together::

    IoU[c]         = hits[c] / (truth[c] + predicted[c] - hits[c])
    accuracy[c]    = hits[c] / truth[c]
    mIoU           = mean of IoU[c], mean accuracy = mean of accuracy[c]
    pixel accuracy = sum of hits / sum of truth

A quotient by 0 is not a number and leaves its mean. So a class that is neither in the ground truth
nor ever predicted does not count in mIoU; one that is predicted without being there counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE = -1  # in a target map: this pixel does not count


def confusion_matrix(
    predicted: npt.NDArray[np.integer], target: npt.NDArray[np.integer], num_classes: int
) -> npt.NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    predicted : ndarray, shape (H, W), integers in [0, num_classes)
    target : ndarray, shape (H, W), integers in [0, num_classes), or `IGNORE`
    num_classes : int

    Returns
    -------
    ndarray, shape (num_classes, num_classes), int64
        Row is the true class, column the predicted one.
    """
    known = target != IGNORE
    pairs = target[known].astype(np.int64) * num_classes + predicted[known]
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True)
class Metrics:
    """Figures of one evaluation, in [0, 1]; not-a-number where nothing can be divided by.

    Attributes
    ----------
    mean_iou, mean_accuracy, pixel_accuracy : float
    iou, accuracy : ndarray, shape (classes,), float64
    pixels : ndarray, shape (classes,), int64
        Pixels of each class in the ground truth.
    """

    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.int64]


def compute_metrics(confusion: npt.NDArray[np.int64]) -> Metrics:
    """Return the metrics of a confusion matrix (rows: truth); see the module's formulas."""
    hits = np.diag(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou = _ratio(hits, truth + predicted - hits)
    accuracy = _ratio(hits, truth)
    return Metrics(
        mean_iou=_mean(iou),
        mean_accuracy=_mean(accuracy),
        pixel_accuracy=float(_ratio(hits.sum(), truth.sum())),
        iou=iou,
        accuracy=accuracy,
        pixels=truth,
    )


def _ratio(above: npt.NDArray[np.int64], below: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Quotient, not-a-number where ``below`` is 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(above, below)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the numbers among the values; not-a-number if there is none."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else float("nan")
