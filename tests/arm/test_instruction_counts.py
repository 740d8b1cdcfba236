"""Instructions of a product and of attention on every emulated CPU do not grow.

The figures are those of ``python -m benchmarks.arm``; no clock is involved.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arm.counting import build_plugin, count_once
from benchmarks.arm.kernels import SHAPES, TARGETS, Work, attention, compile_work, linear
from tests.arm.userspace import UserSpace

ROWS, INNER, COLUMNS = SHAPES[0]
PRODUCTS = ROWS * INNER * COLUMNS
TRIES = 3  # a runtime's waiting threads sometimes add to a count
# QEMU's CPU -> (products of one multiply instruction, thousands of instructions: of the product,
# of attention of 197 tokens and 3 heads).
EXPECTED = {
    "cortex-a53": (8, 2141, 4715),
    "cortex-a72": (8, 2115, 4621),
    "cortex-a76": (16, 742, 1944),
    "max": (32, 432, 1575),
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_plugin(tmp_path_factory.mktemp("plugin"))


def check(
    space: UserSpace, plugin: Path, folder: Path, cpu: str, work: Work, thousands: int
) -> set[int]:
    """Compare the least count with the expected one; return the multiply instructions seen."""
    compile_work(TARGETS[cpu], work, folder)
    counts = []
    while len(counts) < TRIES and not any(c.all <= 1010 * thousands for c in counts):
        counts.append(count_once(space, plugin, cpu, "ours", folder))
    assert 900 * thousands < min(c.all for c in counts) <= 1010 * thousands
    return {c.multiply for c in counts}


@pytest.mark.parametrize("cpu", EXPECTED)
def test_product(user_space: UserSpace, plugin: Path, tmp_path: Path, cpu: str) -> None:
    products, thousands, _ = EXPECTED[cpu]
    found = check(user_space, plugin, tmp_path, cpu, linear(SHAPES[0]), thousands)
    assert found == {PRODUCTS // products}


@pytest.mark.parametrize("cpu", EXPECTED)
def test_attention(user_space: UserSpace, plugin: Path, tmp_path: Path, cpu: str) -> None:
    check(user_space, plugin, tmp_path, cpu, attention((197, 3, 64)), EXPECTED[cpu][2])
