"""Replace every operator by a call of the TIR kernel that its ``lower`` generates.

Weights become constants in the form the kernel wants (packed). Layers of one shape share one
kernel: functions that are structurally equal are added to the module once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from iseg_tvm import graph_ops
from iseg_tvm.errors import IsegError
from iseg_tvm.graph_ops import relax_type, tensor_spec
from iseg_tvm.kernels import rows
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.passes import straight_line
from relay_ops.operator import (
    Lowering,
    LoweringContext,
    Operator,
    OperatorError,
    Schedule,
    TensorSpec,
)

Expr = Any
Call = tuple[str, Any, list[Expr], TensorSpec]
"""Readable name, PrimFunc, arguments, result type."""

FindSchedule = Callable[[Operator, LoweringContext], Schedule]
"""The blocking to lower an operator with; empty: the generator's defaults."""


def default_schedules(operator: Operator, context: LoweringContext) -> Schedule:
    """No operator has a blocking of its own."""
    return {}


def lower_operators(
    module: tvm.IRModule, isa: Isa, schedules: FindSchedule = default_schedules
) -> tvm.IRModule:
    """Return ``module`` with all calls in ``main`` replaced by ``call_tir``.

    Raises
    ------
    IsegError
        If an operator cannot be lowered, or the graph holds a call that is no operator.
    """
    kernels = _Kernels(module)

    def rewrite(binding: Any) -> Any:
        if isinstance(binding.value, relax.Var):
            return binding
        try:
            name, kernel, arguments, result = _lower(binding.value, isa, schedules)
        except OperatorError as error:
            raise IsegError(f"cannot compile {binding.var.name}: {error}") from None
        call = relax.call_tir(kernels.add(kernel, name), arguments, out_ty=relax_type(result))
        return relax.VarBinding(binding.var, kernels.builder.normalize(call))

    lowered = straight_line.rebuild(module["main"], rewrite)
    result = kernels.builder.get()
    result["main"] = lowered
    return result


class _Kernels:
    """The module's PrimFuncs; equal ones are kept once, variants of one name are numbered."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.builder = relax.BlockBuilder(module)
        self.variants: dict[str, list[tvm.ir.GlobalVar]] = {}

    def add(self, kernel: Any, name: str) -> tvm.ir.GlobalVar:
        """Symbol of ``kernel``: ``name``, ``name_v2``, ..."""
        variants = self.variants.setdefault(name, [])
        new_name = f"{name}_v{len(variants) + 1}" if variants else name
        symbol = self.builder.add_func(kernel.without_attr("global_symbol"), new_name)
        if symbol not in variants:
            variants.append(symbol)
        return symbol


def _constant(values: np.ndarray) -> relax.Constant:
    """Relax constant of the array's own type (by itself ``relax.const`` narrows int64 to int32)."""
    return relax.const(np.ascontiguousarray(values), values.dtype.name)


def _lower(value: Expr, isa: Isa, schedules: FindSchedule) -> Call:
    """Kernel and arguments for one call of the graph."""
    operator = graph_ops.operator_of(value)
    if operator is not None:
        return _lower_operator(operator, value, isa, schedules)
    name = str(value.op.name) if isinstance(value, tvm.ir.Call) else str(value)
    if name == "relax.strided_slice":
        return _lower_slice(value)
    if name == "relax.concat":
        return _lower_concatenate(value)
    raise OperatorError(f"{name} has no integer kernel")


def lowering_context(operator: Operator, call: Expr, isa: Isa) -> LoweringContext:
    """What the graph says about one call of an operator."""
    arguments = dict(zip(operator.tensors, call.args, strict=True))
    constants = {
        name: argument.value.numpy()
        for name, argument in arguments.items()
        if isinstance(argument, tvm.ir.GenericConst)
    }
    return LoweringContext(
        types={name: tensor_spec(argument.ty) for name, argument in arguments.items()},
        constants=constants,
        attributes=graph_ops.attributes_of(call),
        result=tensor_spec(call.ty),
        isa=isa,
    )


def _lower_operator(
    operator: Operator, call: Expr, isa: Isa, schedules: FindSchedule
) -> Call:
    arguments = dict(zip(operator.tensors, call.args, strict=True))
    context = lowering_context(operator, call, isa)
    context = replace(context, schedule=schedules(operator, context))
    lowering: Lowering = operator.lower(context)
    passed = [
        arguments[a] if isinstance(a, str) else _constant(a)
        for a in lowering.arguments
    ]
    return kernel_name(operator, context), lowering.function, passed, lowering.result


def kernel_name(operator: Operator, context: LoweringContext) -> str:
    """``<operator>_<rows>x<columns>[x<inner>]``."""
    extents = list(context.result.shape)
    for right in ("weight", "b"):
        if right in context.types:
            extents.append(context.types[right].shape[1])
    return f"{operator.name}_{'x'.join(map(str, extents))}"


def _lower_slice(call: Expr) -> Call:
    axes, begin, end = ([int(v) for v in argument] for argument in call.args[1:4])
    source, result = tensor_spec(call.args[0].ty), tensor_spec(call.ty)
    if axes != [0] or len(source.shape) != 2 or end[0] - begin[0] != result.shape[0]:
        raise OperatorError(f"only rows of a matrix can be sliced, not {source} along {axes}")
    name = f"slice_rows_{result.shape[0]}x{result.shape[1]}"
    return name, rows.slice_kernel(source, begin[0], end[0]), [call.args[0]], result


def _lower_concatenate(call: Expr) -> Call:
    parts, result = list(call.args[0]), tensor_spec(call.ty)
    if len(parts) != 2 or len(result.shape) != 2 or int(call.attrs.axis) != 0:
        raise OperatorError("only two matrices can be concatenated, by rows")
    first, second = (tensor_spec(part.ty) for part in parts)
    name = f"concatenate_rows_{result.shape[0]}x{result.shape[1]}"
    return name, rows.concatenate_kernel(first, second), parts, result
