"""Constants of ``main`` become parameters: the library can hold them apart from its code.

The virtual machine copies constants of its executable three times while it loads, and keeps one.
As parameters they are read where the library's file is mapped (:mod:`iseg_tvm.weights_object`).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from iseg_tvm.passes import straight_line


def lift_constants(module: tvm.IRModule) -> tuple[tvm.IRModule, tuple[tvm.runtime.Tensor, ...]]:
    """Module whose ``main`` takes its tensor constants after its own parameters, and those tensors.

    A tensor that several calls read is one parameter.
    """
    function = module["main"]
    parameters: list[relax.Var] = []
    tensors: list[tvm.runtime.Tensor] = []

    def argument(expr: Any) -> Any:
        value = getattr(expr, "value", None)
        if not isinstance(value, tvm.runtime.Tensor):
            return expr
        for parameter, tensor in zip(parameters, tensors, strict=True):
            if tensor.same_as(value):
                return parameter
        parameters.append(relax.Var(f"constant_{len(parameters)}", expr.ty))
        tensors.append(value)
        return parameters[-1]

    def rewrite(binding: straight_line.Binding) -> straight_line.Binding:
        call = binding.value
        if not isinstance(call, tvm.ir.Call):
            return binding
        arguments = [argument(a) for a in call.args]
        lifted = relax.Call(call.op, arguments, call.attrs, call.ty_args, ret_ty=call.ty)
        return relax.VarBinding(binding.var, lifted)

    body = straight_line.rebuild(function, rewrite)
    lifted = relax.Function(
        [*function.params, *parameters], body.body, body.ret_ty, body.is_pure, body.attrs
    )
    result = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    result["main"] = lifted
    return result, tuple(tensors)
