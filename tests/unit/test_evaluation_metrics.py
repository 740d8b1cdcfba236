"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from iseg_tvm.evaluation.metrics import IGNORE, compute_metrics, confusion_matrix


def test_confusion_counts_truth_in_rows_and_leaves_ignored_pixels_out() -> None:
    target = np.array([[0, 0, 1], [IGNORE, 2, 2]], np.int16)
    predicted = np.array([[0, 1, 1], [2, 0, 2]], np.uint8)
    counts = confusion_matrix(predicted, target, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert counts.dtype == np.int64


def test_confusion_of_256_classes_does_not_overflow() -> None:
    counts = confusion_matrix(np.full((2, 2), 255, np.uint8), np.full((2, 2), 255, np.int16), 256)
    assert counts[255, 255] == 4
    assert counts.sum() == 4


def test_figures() -> None:
    metrics = compute_metrics(np.array([[6, 2], [1, 3]], np.int64))
    assert metrics.iou.tolist() == [6 / 9, 3 / 6]
    assert metrics.accuracy.tolist() == [6 / 8, 3 / 4]
    assert metrics.mean_iou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert metrics.mean_accuracy == pytest.approx(0.75)
    assert metrics.pixel_accuracy == 9 / 12
    assert metrics.pixels.tolist() == [8, 4]


def test_absent_classes_follow_mmsegmentation() -> None:
    """Class 1 is predicted but never true: IoU 0. Class 2 does not occur: not counted."""
    metrics = compute_metrics(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]], np.int64))
    assert metrics.iou[:2].tolist() == [0.75, 0.0]
    assert np.isnan(metrics.iou[2])
    assert metrics.mean_iou == 0.375
    assert np.isnan(metrics.accuracy[1:]).all()
    assert metrics.mean_accuracy == 0.75


def test_nothing_counted_gives_no_figure() -> None:
    metrics = compute_metrics(np.zeros((2, 2), np.int64))
    assert np.isnan([metrics.mean_iou, metrics.pixel_accuracy, metrics.mean_accuracy]).all()
