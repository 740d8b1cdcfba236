"""Instructions of one product on every emulated CPU do not grow, and the multiplies are the least.

The figures are those of ``python -m benchmarks.arm``; no clock is involved.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arm.counting import build_plugin, count_once
from benchmarks.arm.kernels import SHAPES, TARGETS, compile_work, linear
from tests.arm.userspace import UserSpace

ROWS, INNER, COLUMNS = SHAPES[0]
PRODUCTS = ROWS * INNER * COLUMNS
TRIES = 3  # a runtime's waiting threads sometimes add to a count
# QEMU's CPU -> (products of one multiply instruction, instructions of a call in thousands).
EXPECTED = {
    "cortex-a53": (8, 2199),
    "cortex-a72": (8, 2118),
    "cortex-a76": (16, 736),
    "max": (32, 430),
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_plugin(tmp_path_factory.mktemp("plugin"))


@pytest.mark.parametrize("cpu", EXPECTED)
def test_counts(user_space: UserSpace, plugin: Path, tmp_path: Path, cpu: str) -> None:
    products, thousands = EXPECTED[cpu]
    compile_work(TARGETS[cpu], linear(SHAPES[0]), tmp_path)
    least = None
    for _ in range(TRIES):
        found = count_once(user_space, plugin, cpu, "ours", tmp_path)
        assert found.multiply == PRODUCTS // products
        least = found.all if least is None else min(least, found.all)
        if least <= 1.01 * 1000 * thousands:
            break
    assert 0.9 * 1000 * thousands < least <= 1.01 * 1000 * thousands
