"""The fused attention kernel equals the operator's reference on every ISA, edges included."""

from __future__ import annotations

import numpy as np
import pytest

from iseg_tvm.kernels.isa import Isa, get_isa
from tests.kernels.harness import assembly, compare, lower
from tests.kernels.test_gemm import every_isa
from tests.ops.support import filled, integers, multipliers


def cases(tokens: int, heads: int, width: int) -> list[dict[str, np.ndarray]]:
    """Per-head constants with random, small, extreme and degenerate activations."""
    constants = {
        "exp_multiplier": multipliers(1, heads),
        "exp_shift": integers(2, "int8", heads, low=0, high=9),
        "out_multiplier": multipliers(3, heads),
        "out_shift": np.full(heads, 14, np.int8),
    }
    shape = (tokens, 3 * heads * width)
    patterns = ("random", "lowest", "highest", "zeros", "one_hot")
    inputs = [filled(p, "int8", *shape) for p in patterns]
    inputs += [inputs[0] // 12, inputs[0] // 3]
    return [{**constants, "qkv": q.astype(np.int8)} for q in inputs]


@every_isa
@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(1, 1, 1), (5, 2, 3), (33, 2, 16), (197, 2, 64), (67, 1, 20)]
)
def test_shapes(isa: Isa, target: str, tokens: int, heads: int, width: int) -> None:
    compare(
        "shiftmax_attention", isa, target, cases(tokens, heads, width),
        fraction_bits=9, post_shift=6, polynomial="quadratic",
    )  # fmt: skip


@every_isa
@pytest.mark.parametrize(
    ("fraction_bits", "post_shift", "polynomial"),
    [(10, 5, "linear"), (4, 4, "quadratic"), (6, 6, "quadratic"), (10, 6, "quadratic")],
)
def test_constants(
    isa: Isa, target: str, fraction_bits: int, post_shift: int, polynomial: str
) -> None:
    compare(
        "shiftmax_attention", isa, target, cases(50, 2, 32),
        fraction_bits=fraction_bits, post_shift=post_shift, polynomial=polynomial,
    )  # fmt: skip


def test_assembly_holds_the_tile_instructions() -> None:
    attributes = {"fraction_bits": 6, "post_shift": 6, "polynomial": "quadratic"}
    text = assembly(
        lower("shiftmax_attention", get_isa("amx"), cases(100, 1, 64)[0], attributes), "amx"
    )
    present = ["tdpbssd", "tdpbusd", "vpermt2w", "vpmulhrsw", "vpackssdw", "vpternlog"]
    assert [i for i in present if i not in text] == []
    assert "vpermt2b" not in text  # slower than the shift it would replace
