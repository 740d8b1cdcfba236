"""``shift_gelu``: the table look-up (the tables: tests/unit/test_activation_tables.py)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from iseg_tvm.operator_limits import table_groups
from relay_ops import shift_gelu
from tests.ops.support import PATTERNS, agree, agree_with_scalars, few, filled, integers, rejects


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (37, 50), (2, 1025)])
def test_random(rows: int, columns: int) -> None:
    x = integers(1, "int8", rows, columns)
    for groups in {1, table_groups(columns)}:
        agree("shift_gelu", x, integers(2, "int8", groups, 256))


@pytest.mark.parametrize("x", PATTERNS)
def test_extreme(x: str) -> None:
    agree_with_scalars("shift_gelu", filled(x, "int8", 3, 7), integers(3, "int8", 1, 256))


def test_every_entry_is_reached() -> None:
    x = np.arange(-128, 128, dtype=np.int8)[None]
    table = integers(4, "int8", 1, 256)
    assert agree("shift_gelu", x, table).tolist() == table.tolist()


def test_every_group_of_columns_has_its_table() -> None:
    for columns, groups in ((64, 1), (65, 2), (96, 2), (128, 2), (129, 3)):
        assert table_groups(columns) == groups
        tables = np.repeat(np.arange(groups, dtype=np.int8)[:, None], 256, axis=1)
        found = agree("shift_gelu", integers(5, "int8", 2, columns), tables)
        assert found.tolist() == [[c // 64 for c in range(columns)]] * 2


@few
@given(st.integers(1, 5), st.integers(1, 200), st.booleans(), st.integers(0, 10**6))
def test_property(rows: int, columns: int, grouped: bool, seed: int) -> None:
    groups = table_groups(columns) if grouped else 1
    x, table = integers(seed, "int8", rows, columns), integers(seed + 1, "int8", groups, 256)
    agree_with_scalars("shift_gelu", x, table)


def test_ranges() -> None:
    with pytest.raises(RangeError, match="x: "):
        shift_gelu.reference(np.array([[-129]], np.int16), np.zeros((1, 256), np.int8))


def test_rejections() -> None:
    x, table = np.zeros((2, 3), np.int8), np.zeros((1, 256), np.int8)
    rejects("shift_gelu", [x.astype(np.uint8), table], {}, "'x'", "int8[*, *]", "uint8[2, 3]")
    rejects("shift_gelu", [x[0], table], {}, "'x'", "int8[3]")
    rejects("shift_gelu", [x, table[0]], {}, "'table'", "int8[*, 256]", "int8[256]")
    rejects("shift_gelu", [x, table[:, :255]], {}, "'table'", "int8[*, 256]", "int8[1, 255]")
    rejects("shift_gelu", [x, table.astype(np.int16)], {}, "'table'", "int16[1, 256]")


def test_number_of_tables_is_one_or_one_a_group() -> None:
    narrow, wide = np.zeros((2, 64), np.int8), np.zeros((2, 130), np.int8)
    two, none = np.zeros((2, 256), np.int8), np.zeros((0, 256), np.int8)
    rejects("shift_gelu", [narrow, two], {}, "'table' must be int8[1, 256], is int8[2, 256]")
    words = "'table' must be int8[1, 256] or int8[3, 256], is "
    rejects("shift_gelu", [wide, two], {}, words + "int8[2, 256]")
    rejects("shift_gelu", [wide, none], {}, words + "int8[0, 256]")
