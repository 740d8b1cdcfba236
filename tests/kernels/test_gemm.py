"""GEMM kernels equal the operators' references on every ISA, edges included."""

from __future__ import annotations

import numpy as np
import pytest

from iseg_tvm.kernels.isa import Isa, get_isa
from iseg_tvm.operator_limits import table_groups
from tests.kernels.harness import ISAS, assembly, compare, lower
from tests.ops.support import filled, integers, multipliers

every_isa = pytest.mark.parametrize(("isa", "target"), [(i, t) for _, i, t in ISAS],
                                    ids=[label for label, _, _ in ISAS])  # fmt: skip

SHAPES = [(1, 1, 1), (5, 3, 7), (37, 66, 150), (65, 192, 101)]


def layer(rows: int, inner: int, columns: int) -> dict[str, np.ndarray]:
    """Constants of a linear layer with every epilogue's tensors."""
    return {
        "x": integers(1, "int8", rows, inner),
        "weight": integers(2, "int8", columns, inner, low=-127),
        "bias": integers(3, "int32", columns, low=-(2**20), high=2**20),
        "multiplier": multipliers(4, columns),
        "shift": integers(5, "int8", columns, low=0, high=14),
        "table": integers(6, "int8", 1, 256),
        "skip": integers(7, "int16", rows, columns),
    }


def cases(constants: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The layer on random and extreme activations."""
    shape = constants["x"].shape
    patterns = ("random", "lowest", "highest", "zeros", "one_hot", "alternating")
    return [{**constants, "x": filled(p, "int8", *shape)} for p in patterns]


@every_isa
@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_linear(isa: Isa, target: str, rows: int, inner: int, columns: int) -> None:
    compare("linear", isa, target, cases(layer(rows, inner, columns)))


@every_isa
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("linear_requantize", {"post_shift": 7, "dtype": "int8"}),
        ("linear_requantize", {"post_shift": 0, "dtype": "int8"}),
        ("linear_requantize", {"post_shift": 0, "dtype": "int16"}),
        ("linear_gelu", {"post_shift": 1}),
        ("linear_residual", {"skip_shift": 0, "post_shift": 0}),
        ("linear_residual", {"skip_shift": 3, "post_shift": 0}),
    ],
)
def test_epilogues(isa: Isa, target: str, operator: str, attributes: dict[str, object]) -> None:
    compare(operator, isa, target, cases(layer(23, 40, 45)), **attributes)


@every_isa
@pytest.mark.parametrize("columns", [64, 96, 129, 144])
def test_every_group_of_columns_has_its_table(isa: Isa, target: str, columns: int) -> None:
    given = layer(37, 20, columns)
    tables = {"table": integers(6, "int8", table_groups(columns), 256)}
    compare("linear_gelu", isa, target, cases({**given, **tables}), post_shift=1)


@every_isa
@pytest.mark.parametrize("extreme", [127, -127])
def test_extreme_weights_and_bias(isa: Isa, target: str, extreme: int) -> None:
    constants = layer(7, 300, 17)
    constants["weight"][:] = extreme
    constants["bias"][:] = 2**29 if extreme > 0 else -(2**29)
    compare("linear", isa, target, cases(constants))
    constants["shift"][:] = 24
    compare("linear_requantize", isa, target, cases(constants), post_shift=7, dtype="int8")


@every_isa
@pytest.mark.parametrize(("height", "width", "patch"), [(16, 24, 8), (37, 50, 8), (5, 3, 16)])
def test_patch_embed(isa: Isa, target: str, height: int, width: int, patch: int) -> None:
    constants = {
        "weight": integers(2, "int8", 40, patch * patch * 3, low=-127),
        "bias": integers(3, "int32", 40, low=-(2**20), high=2**20),
    }
    images = [filled(p, "uint8", height, width, 3) for p in ("random", "zeros", "highest")]
    compare(
        "patch_embed", isa, target, [{**constants, "image": i} for i in images],
        patch=patch, pad=[124, 0, 255],
    )  # fmt: skip


@every_isa
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("norm_linear_requantize", {"post_shift": 7}),
        ("norm_linear_gelu", {"post_shift": 2}),
    ],
)
@pytest.mark.parametrize(("rows", "inner"), [(23, 40), (70, 96)])
def test_norm_on_the_way(
    isa: Isa, target: str, rows: int, inner: int, operator: str, attributes: dict[str, object]
) -> None:
    constants = {
        **layer(rows, inner, 45),
        "gamma": integers(11, "int16", inner, low=-32767),
        "beta": integers(12, "int32", inner, low=-(2**22), high=2**22),
    }
    given = [
        {**constants, "x": filled(pattern, "int16", rows, inner)}
        for pattern in ("random", "lowest", "highest", "zeros", "one_hot", "alternating")
    ]
    compare(operator, isa, target, given, eps=5, norm_shift=20, **attributes)


@every_isa
def test_matmul(isa: Isa, target: str) -> None:
    tensors = {
        "multiplier": multipliers(4, 19),
        "shift": integers(5, "int8", 19, low=0, high=14),
    }
    patterns = (("random", "random"), ("lowest", "lowest"), ("highest", "lowest"))
    pairs = [(filled(p, "int8", 33, 50), filled(q, "int8", 19, 50)) for p, q in patterns]
    given = [{**tensors, "a": a, "b": b} for a, b in pairs]
    for one in given:  # each alone: the right operand must not be taken for a constant
        compare("matmul", isa, target, [one])
    compare("matmul_requantize", isa, target, given[:1], post_shift=0, dtype="int16")


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("avx2", ["vpmaddwd", "vpmulhrsw"], ["vpdpbusd", "zmm"]),
        ("avxvnni", ["{vex}", "vpdpbusd", "vpmulhrsw", "vpackssdw"], ["zmm", "vpmaddwd"]),
        ("avx512bw", ["vpmaddwd", "vpmulhrsw", "zmm"], ["vpdpbusd"]),
        ("avx512vnni", ["vpdpbusd", "vpmulhrsw", "vpackssdw", "vpacksswb", "zmm"], []),
        ("amx", ["tdpbssd", "tileloadd", "ldtilecfg", "tilerelease", "vpmulhrsw"], ["vpdpbusd"]),
        ("neon", ["smull", "smlal2", "sadalp", "sqrdmulh", "sqxtn"], ["sdot", "udot", "smmla"]),
        ("neon_dotprod", ["sdot", ".4b[3]", "sqrdmulh", "sqxtn"], ["smmla", "smull"]),
        ("neon_i8mm", ["smmla", "sqrdmulh", "sqxtn"], ["sdot", "smull"]),
    ],
)
def test_assembly_holds_the_isas_instructions(
    name: str, present: list[str], absent: list[str]
) -> None:
    lowering = lower(
        "linear_requantize", get_isa(name), layer(65, 64, 150), {"post_shift": 7, "dtype": "int8"}
    )
    text = assembly(lowering, name)
    assert [i for i in present if i not in text] == []
    assert [i for i in absent if i in text] == []


def test_table_activation_stays_in_registers_with_vbmi() -> None:
    lowering = lower("linear_gelu", get_isa("avx512vbmi"), layer(65, 64, 128), {"post_shift": 7})
    text = assembly(lowering, "avx512vbmi")
    assert "vpermi2b" in text or "vpermt2b" in text
    assert "movsbq" not in text  # the byte loop of families without a register look-up
