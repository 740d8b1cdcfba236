"""The operators of ``relay_ops`` as Relax operators ``relax.iseg.<name>``.

Registered from Python when this module is imported. The prefix ``relax.`` makes TVM print a call as
``R.iseg.linear(...)``; type inference is the operator's own ``infer``, so a graph with a wrong
dtype or shape cannot be built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr
from tvm.ir import _ffi_api as ir_api

from relay_ops import OPERATORS, Operator, OperatorError, TensorSpec

PREFIX = "relax.iseg."

Expr = Any


def tensor_spec(relax_type: Any) -> TensorSpec:
    """Static type of a Relax tensor type.

    Raises
    ------
    OperatorError
        If it is no tensor, or its shape or dtype is not known at compile time.
    """
    if not isinstance(relax_type, relax.TensorType):
        raise OperatorError(f"expected a tensor, got {relax_type}")
    shape = relax_type.shape
    if shape is None or relax_type.dtype is None:
        raise OperatorError(f"shape and dtype of {relax_type} are not known")
    if not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape):
        raise OperatorError(f"shape of {relax_type} is not static")
    return TensorSpec(tuple(int(extent) for extent in shape), str(relax_type.dtype))


def relax_type(spec: TensorSpec) -> relax.TensorType:
    """Relax tensor type of a static type."""
    return relax.TensorType(spec.shape, spec.dtype)


def operator_of(expr: Expr) -> Operator | None:
    """Operator that a Relax expression calls, or None."""
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, Op):
        return OPERATORS.get(str(expr.op.name).removeprefix(PREFIX))
    return None


def attributes_of(call: Expr) -> dict[str, Any]:
    """Attributes of a call as Python values."""
    operator = operator_of(call)
    names = operator.attributes if operator is not None else {}
    return {name: _from_ffi(call.attrs[name], kind) for name, kind in names.items()}


def _from_ffi(value: Any, kind: str) -> Any:
    converters: dict[str, Any] = {"int": int, "bool": bool, "str": str}
    return [int(v) for v in value] if kind == "int[]" else converters[kind](value)


def call(name: str, tensors: Sequence[Expr], attributes: Mapping[str, Any]) -> Expr:
    """Relax call of ``iseg.<name>``; its type is inferred when a block builder takes it."""
    operator = OPERATORS[name]
    given, wanted = set(attributes), set(operator.attributes)
    if given != wanted:
        raise OperatorError(f"iseg.{name} takes attributes {sorted(wanted)}, got {sorted(given)}")
    attrs = tvm.ir.make_node("ir.DictAttrs", **attributes) if attributes else None
    return relax.Call(Op.get(PREFIX + name), list(tensors), attrs=attrs)


def _infer_type(graph_call: Expr, _builder: Any) -> relax.TensorType:
    """Relax's ``FInferType`` of all operators; the message of a rejection names all types."""
    operator = operator_of(graph_call)
    if operator is None:
        raise OperatorError(f"{graph_call.op} is not an operator of relay_ops")
    try:
        specs = [tensor_spec(argument.ty) for argument in graph_call.args]
        return relax_type(operator.infer_types(specs, attributes_of(graph_call)))
    except OperatorError as error:
        # TVM carries only Python's own exception types across its C++ frames.
        raise ValueError(str(error)) from None


def register_graph_ops() -> None:
    """Register every operator of ``relay_ops`` that Relax does not know yet."""
    known = {str(name) for name in Op.list_op_names()}
    for operator in OPERATORS.values():
        full_name = PREFIX + operator.name
        if full_name in known:
            continue
        ir_api.RegisterOp(full_name, f"iseg-tvm operator, see relay_ops ({operator.schema})")
        op = Op.get(full_name)
        op.set_num_inputs(len(operator.tensors))
        for tensor in operator.tensors:
            op.add_argument(tensor, "Tensor", "")
        register_op_attr(full_name, "FInferType", _infer_type)
        register_op_attr(full_name, "FPurity", True)


register_graph_ops()
