"""The operators in the graph IR: registration, type inference, what is printed, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import relax

from iseg_tvm import graph_ops
from relay_ops import OPERATORS, OperatorError, TensorSpec

ROWS, INNER, COLUMNS = 6, 4, 12
SPECS = {
    "x": TensorSpec((ROWS, INNER), "int8"),
    "a": TensorSpec((ROWS, INNER), "int8"),
    "b": TensorSpec((COLUMNS, INNER), "int8"),
    "weight": TensorSpec((COLUMNS, INNER), "int8"),
    "bias": TensorSpec((COLUMNS,), "int32"),
    "multiplier": TensorSpec((COLUMNS,), "int16"),
    "shift": TensorSpec((COLUMNS,), "int8"),
    "table": TensorSpec((1, 256), "int8"),
    "accumulator": TensorSpec((ROWS, COLUMNS), "int32"),
    "skip": TensorSpec((ROWS, COLUMNS), "int16"),
    "branch": TensorSpec((ROWS, COLUMNS), "int16"),
    "image": TensorSpec((3, 2, 3), "uint8"),
    "scores": TensorSpec((ROWS, COLUMNS), "int32"),
    "gamma": TensorSpec((COLUMNS,), "int16"),
    "beta": TensorSpec((COLUMNS,), "int32"),
    "qkv": TensorSpec((ROWS, COLUMNS), "int8"),
    **{f"{n}_multiplier": TensorSpec((2,), "int16") for n in ("exp", "out")},
    **{f"{n}_shift": TensorSpec((2,), "int8") for n in ("exp", "out")},
}
ATTRIBUTES: dict[str, Any] = {
    "post_shift": 7, "dtype": "int8", "skip_shift": 2, "patch": 1, "pad": [1, 2, 3], "height": 3,
    "width": 2, "eps": 9, "shift": 4, "center": True, "fraction_bits": 8, "polynomial": "linear",
    "norm_shift": 4,
}  # fmt: skip

_NORMALISED = {
    "x": TensorSpec((ROWS, INNER), "int16"),
    "gamma": TensorSpec((INNER,), "int16"),
    "beta": TensorSpec((INNER,), "int32"),
}


def specs_of(name: str) -> list[TensorSpec]:
    special = {
        "layer_norm": {"x": TensorSpec((ROWS, COLUMNS), "int16")},
        "norm_linear_requantize": _NORMALISED,
        "norm_linear_gelu": _NORMALISED,
        "patch_embed": {"weight": TensorSpec((COLUMNS, 3), "int8")},
        "patch_embed_residual": {"weight": TensorSpec((COLUMNS, 3), "int8")},
    }
    return [special.get(name, {}).get(t, SPECS[t]) for t in OPERATORS[name].tensors]


def graph_call(name: str, specs: list[TensorSpec], **changed: Any) -> Any:
    variables = [
        relax.Var(tensor, graph_ops.relax_type(spec))
        for tensor, spec in zip(OPERATORS[name].tensors, specs, strict=True)
    ]
    attributes = {a: ATTRIBUTES[a] for a in OPERATORS[name].attributes} | changed
    return relax.BlockBuilder().normalize(graph_ops.call(name, variables, attributes))


@pytest.mark.parametrize("name", OPERATORS)
def test_type_is_the_operators_own(name: str) -> None:
    call = graph_call(name, specs_of(name))
    attributes = {a: ATTRIBUTES[a] for a in OPERATORS[name].attributes}
    expected = OPERATORS[name].infer_types(specs_of(name), attributes)
    assert graph_ops.tensor_spec(call.ty) == expected
    assert graph_ops.operator_of(call) is OPERATORS[name]
    assert graph_ops.attributes_of(call) == attributes


@pytest.mark.parametrize("name", OPERATORS)
def test_wrong_dtype_is_refused_by_name(name: str) -> None:
    specs = specs_of(name)
    specs[0] = TensorSpec(specs[0].shape, "float32")
    with pytest.raises(ValueError, match=rf"iseg.{name}\(float32") as caught:
        graph_call(name, specs)
    assert OPERATORS[name].tensors[0] in str(caught.value)


def test_wrong_attribute_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'post_shift' must be in \[0, 7\], is 8"):
        graph_call("requantize", specs_of("requantize"), post_shift=8)


def test_unknown_attribute_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"takes attributes \['skip_shift'\]"):
        graph_call("residual_add", specs_of("residual_add"), extra=1)


def test_symbolic_shape_is_refused() -> None:
    rows = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((rows, 4), "int8"))
    table = relax.Var("table", relax.TensorType((1, 256), "int8"))
    with pytest.raises(ValueError, match="is not static"):
        relax.BlockBuilder().normalize(graph_ops.call("shift_gelu", [x, table], {}))


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(OperatorError, match="expected a tensor"):
        graph_ops.tensor_spec(relax.ShapeType([1, 2]))


def test_registering_twice_changes_nothing() -> None:
    op = tvm.ir.Op.get("relax.iseg.linear")
    graph_ops.register_graph_ops()
    assert tvm.ir.Op.get("relax.iseg.linear").same_as(op)


def test_printed_form() -> None:
    text = graph_call("requantize", specs_of("requantize")).script()
    assert 'R.iseg.requantize(accumulator, multiplier, shift, dtype="int8", post_shift=7)' in text
