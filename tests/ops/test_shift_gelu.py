"""``shift_gelu``: the table look-up (the tables: tests/unit/test_activation_tables.py)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from relay_ops import shift_gelu
from tests.ops.support import PATTERNS, agree, agree_with_scalars, few, filled, integers, rejects


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (37, 50), (2, 1025)])
def test_random(rows: int, columns: int) -> None:
    agree("shift_gelu", integers(1, "int8", rows, columns), integers(2, "int8", 256))


@pytest.mark.parametrize("x", PATTERNS)
def test_extreme(x: str) -> None:
    agree_with_scalars("shift_gelu", filled(x, "int8", 3, 7), integers(3, "int8", 256))


def test_every_entry_is_reached() -> None:
    x = np.arange(-128, 128, dtype=np.int8)[None]
    table = integers(4, "int8", 256)
    assert agree("shift_gelu", x, table)[0].tolist() == table.tolist()


@few
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_property(rows: int, columns: int, seed: int) -> None:
    x, table = integers(seed, "int8", rows, columns), integers(seed + 1, "int8", 256)
    agree_with_scalars("shift_gelu", x, table)


def test_ranges() -> None:
    with pytest.raises(RangeError, match="x: "):
        shift_gelu.reference(np.array([[-129]], np.int16), np.zeros(256, np.int8))


def test_rejections() -> None:
    x, table = np.zeros((2, 3), np.int8), np.zeros(256, np.int8)
    rejects("shift_gelu", [x.astype(np.uint8), table], {}, "'x'", "int8[*, *]", "uint8[2, 3]")
    rejects("shift_gelu", [x[0], table], {}, "'x'", "int8[3]")
    rejects("shift_gelu", [x, table[:255]], {}, "'table'", "int8[256]", "int8[255]")
    rejects("shift_gelu", [x, table.astype(np.int16)], {}, "'table'", "int16[256]")
