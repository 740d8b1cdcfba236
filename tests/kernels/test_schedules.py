"""Schedules change how kernels are blocked, never what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm_ffi import structural_equal

from iseg_tvm.kernels.isa import get_isa
from relay_ops import OPERATORS
from tests.kernels import test_attention, test_gemm
from tests.kernels.harness import ISAS, compare, context_of, lower
from tests.ops.support import integers

_, ISA, TARGET = [row for row in ISAS if not row[0].endswith("-emulated")][-1]

ROWS = 101
NORM = {
    "x": integers(1, "int16", ROWS, 24),
    "gamma": integers(2, "int16", 24),
    "beta": integers(3, "int32", 24, low=-(2**20), high=2**20),
}
LAYER = test_gemm.layer(ROWS, 40, 150)
PIXELS = {**LAYER, "image": integers(4, "uint8", 9, 11, 3), "skip": integers(5, "int16", 30, 150)}
PIXELS["weight"] = integers(6, "int8", 150, 12, low=-127)

Case = tuple[str, dict[str, np.ndarray], dict[str, Any]]
CASES: list[Case] = [
    ("linear_gelu", LAYER, {"post_shift": 1}),
    ("linear_gelu", {**LAYER, "table": integers(8, "int8", 3, 256)}, {"post_shift": 1}),
    ("linear_residual", LAYER, {"skip_shift": 1, "post_shift": 0}),
    ("matmul", {"a": LAYER["x"], "b": integers(7, "int8", 150, 40)}, {}),
    (
        "patch_embed_residual",
        PIXELS,
        {"patch": 2, "pad": [1, 2, 3], "skip_shift": 0, "post_shift": 0},
    ),
    (
        "shiftmax_attention",
        test_attention.cases(ROWS, 2, 20)[0],
        {"fraction_bits": 9, "post_shift": 6, "polynomial": "quadratic"},
    ),
    ("layer_norm", NORM, {"eps": 1, "shift": 14, "center": True, "dtype": "int8"}),
]
each_case = pytest.mark.parametrize(
    ("operator", "tensors", "attributes"), CASES, ids=[case[0] for case in CASES]
)


@each_case
def test_first_candidates_are_the_defaults(
    operator: str, tensors: dict[str, np.ndarray], attributes: dict[str, Any]
) -> None:
    space = OPERATORS[operator].space(context_of(operator, ISA, tensors, attributes))
    first = {name: values[0] for name, values in space.items()}
    default = lower(operator, ISA, tensors, attributes)
    chosen = lower(operator, ISA, tensors, attributes, first)
    tvm.ir.assert_structural_equal(default.function, chosen.function)


@each_case
def test_candidates_give_the_same_bits(
    operator: str, tensors: dict[str, np.ndarray], attributes: dict[str, Any]
) -> None:
    space = OPERATORS[operator].space(context_of(operator, ISA, tensors, attributes))
    for name, values in space.items():
        for value in values[1::3]:
            compare(operator, ISA, TARGET, [tensors], {name: value}, **attributes)


@each_case
def test_schedules_are_used(
    operator: str, tensors: dict[str, np.ndarray], attributes: dict[str, Any]
) -> None:
    space = OPERATORS[operator].space(context_of(operator, ISA, tensors, attributes))
    default = lower(operator, ISA, tensors, attributes).function
    several = {name: values for name, values in space.items() if len(values) > 1}
    assert several
    for name, values in several.items():
        other = lower(operator, ISA, tensors, attributes, {name: values[-1]}).function
        assert not structural_equal(default, other), name


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512vnni", "neon"])
def test_register_blocks(name: str) -> None:
    isa = get_isa(name)
    blocks = isa.blocks()
    assert blocks[0] == isa.block
    assert len(set(blocks)) == len(blocks)
    for block in blocks[1:]:
        other = isa.with_block(block)
        assert (other.block, other.name, other.dot) == (block, isa.name, isa.dot)
        assert other.rows * other.vectors + other.vectors < isa.registers
