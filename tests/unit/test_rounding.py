"""Rounding with feedback: whole numbers, and less output error than rounding to nearest."""

import numpy as np
import pytest

from iseg_tvm.quantization.rounding import round_to_nearest, round_with_feedback


def correlated(rows: int, width: int, seed: int) -> np.ndarray:
    """Inputs with a mean and a few strong common directions, as tokens have."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((4, width))
    return generator.standard_normal((rows, width)) + generator.normal(2, 3, (rows, 4)) @ directions


@pytest.mark.parametrize(("outputs", "width"), [(5, 16), (40, 64), (7, 150)])
def test_output_error_falls_on_new_inputs(outputs: int, width: int) -> None:
    weight = np.random.default_rng(1).uniform(-127, 127, (outputs, width))
    seen, new = correlated(400, width, 2), correlated(400, width, 3)
    rounded = round_with_feedback(weight, seen.T @ seen / len(seen))
    nearest = round_to_nearest(weight)
    np.testing.assert_array_equal(rounded, np.floor(rounded))
    assert np.abs(rounded).max() <= 127
    errors = [np.square(new @ (weight - q).T).mean() for q in (rounded, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_uncorrelated_inputs_round_to_nearest() -> None:
    weight = np.random.default_rng(1).uniform(-127, 127, (6, 20))
    rounded = round_with_feedback(weight, np.diag(np.arange(1.0, 21.0)))
    np.testing.assert_array_equal(rounded, round_to_nearest(weight))


def test_dead_inputs_round_to_nearest() -> None:
    weight = np.array([[1.4, -2.5, 300.0]])
    for moment in (np.zeros((3, 3)), np.diag([1.0, 0.0, 0.0])):
        np.testing.assert_array_equal(round_with_feedback(weight, moment), [[1, -2, 127]])


def test_the_weights_are_left_as_they_were() -> None:
    weight = np.random.default_rng(1).uniform(-9, 9, (3, 8))
    before, inputs = weight.copy(), correlated(50, 8, 4)
    round_with_feedback(weight, inputs.T @ inputs)
    np.testing.assert_array_equal(weight, before)
