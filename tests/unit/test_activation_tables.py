"""256-byte activation tables against the functions that they stand for."""

import math

import numpy as np
import pytest

from iseg_tvm.activation_tables import gelu_table, shift_gelu_table
from iseg_tvm.fixed_point import RangeError

X = np.arange(-128, 128)
SCALES = [(2.0 / 127, 2.0 / 127), (6.0 / 127, 6.0 / 127), (0.3 / 127, 0.2 / 127), (20 / 127, 0.1)]


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def shift_exp(t: float) -> float:
    """I-ViT's ShiftExp in real numbers: 2**-f ~ 1 - f/2, log2 e ~ 1.0111b."""
    t *= 1 + 1 / 2 - 1 / 16
    whole, fraction = divmod(-t, 1.0)
    return (1 - fraction / 2) * 2.0**-whole


def shift_gelu(x: float, maximum: float) -> float:
    """I-ViT's ShiftGELU of one value of a row with this maximum (arXiv 2207.01405)."""
    v = x * (1 + 1 / 2 + 1 / 8 + 1 / 16)
    top = maximum * (1 + 1 / 2 + 1 / 8 + 1 / 16)
    a, b = shift_exp(v - top), shift_exp(-top)
    return x * a / (a + b)


def saturated(values: list[float]) -> np.ndarray:
    return np.clip(values, -128, 127)


@pytest.mark.parametrize(("scale_in", "scale_out"), SCALES)
def test_gelu_is_rounded_exactly(scale_in: float, scale_out: float) -> None:
    exact = [gelu(x * scale_in) / scale_out for x in X.tolist()]
    table = gelu_table(scale_in, scale_out)
    assert table.dtype == np.int8
    assert np.abs(table - saturated(exact)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("scale_in", "scale_out"), SCALES)
def test_shift_gelu_is_its_real_definition_rounded(scale_in: float, scale_out: float) -> None:
    """Pointwise form, top = max(v, 0): within half a step and 2**-14 of the input's range."""
    exact = [shift_gelu(x * scale_in, max(x * scale_in, 0.0)) / scale_out for x in X.tolist()]
    table = shift_gelu_table(scale_in, scale_out)
    assert table.dtype == np.int8
    slack = 0.5 + 128 * scale_in / scale_out * 2.0**-14 + 2.0**-14 / scale_out
    assert np.abs(table - saturated(exact)).max() <= slack


def test_shift_gelu_is_close_to_i_vit_with_any_row_maximum() -> None:
    """The row maximum matters only through the exponential's error: 0.016, and half a step."""
    scale = 8.0 / 127
    pointwise = shift_gelu_table(scale, scale).astype(float)
    for maximum in np.linspace(0.5, 8, 16).tolist():
        inside = scale * X <= maximum
        paper = [shift_gelu(x * scale, maximum) for x in X[inside].tolist()]
        assert np.abs(pointwise[inside] * scale - paper).max() < 0.016 + 0.51 * scale


def test_documented_distance_to_gelu() -> None:
    scale = 6.0 / 127
    difference = shift_gelu_table(scale, scale) * scale - [gelu(x * scale) for x in X.tolist()]
    assert 0.02 < np.abs(difference).max() < 0.065


@pytest.mark.parametrize("build", [gelu_table, shift_gelu_table])
def test_ends_and_zero(build: object) -> None:
    table = build(8 / 127, 8 / 127)  # type: ignore[operator]
    assert table[128] == 0
    assert table[255] == 127
    assert -1 <= table[0] <= 0


@pytest.mark.parametrize("zero_point", [-128, -118, 5])
@pytest.mark.parametrize("build", [gelu_table, shift_gelu_table])
def test_zero_point_shifts_before_saturation(build: object, zero_point: int) -> None:
    scale, fine = 4.0 / 127, 4.2 / 255
    plain = [build(scale, fine)[128 - 60], build(scale, fine)[128], build(scale, fine)[128 + 20]]  # type: ignore[operator]
    table = build(scale, fine, zero_point)  # type: ignore[operator]
    moved = [table[128 - 60], table[128], table[128 + 20]]
    assert moved == [max(int(v) + zero_point, -128) for v in plain]
    if zero_point == -118:  # room for 4 / fine = 243 steps that a symmetric grid would not have
        assert 127 > table[254] > table[250]
        assert build(scale, fine)[250] == 127  # type: ignore[operator]


@pytest.mark.parametrize("build", [gelu_table, shift_gelu_table])
def test_tiny_output_step_saturates(build: object) -> None:
    table = build(1.0, 1e-30)  # type: ignore[operator]
    assert table[129:].tolist() == [127] * 127
    assert table[128] == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("build", [gelu_table, shift_gelu_table])
def test_scales_are_checked(build: object, bad: float) -> None:
    for scales in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(RangeError, match="scale"):
            build(*scales)  # type: ignore[operator]


@pytest.mark.parametrize("build", [gelu_table, shift_gelu_table])
def test_zero_point_of_the_input_moves_the_table(build: object) -> None:
    plain, moved = (build(0.03, 0.02, -100, z) for z in (0, -60))  # type: ignore[operator]
    assert moved[: 256 - 60].tolist() == plain[60:].tolist()
    assert moved[128 - 60] == -100
