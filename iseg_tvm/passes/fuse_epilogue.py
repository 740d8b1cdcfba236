"""Fuse a product with its epilogue: chains of operators become the operators of ``fused_linear``.

``linear -> requantize -> [shift_gelu | residual_add]`` and the like, where every intermediate
result has one reader, are rewritten to one call, so that accumulators never leave the registers.
The chains are read from ``fused_linear.STEPS``; the longest that ends at a binding wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from iseg_tvm import graph_ops
from iseg_tvm.passes import straight_line
from relay_ops.fused_linear import STEPS, Step

Expr = Any
Match = tuple[dict[str, Expr], dict[str, Any], list[Expr]]


def fuse_epilogue(module: tvm.IRModule) -> tvm.IRModule:
    """Return ``module`` with every chain of :data:`fused_linear.STEPS` in ``main`` fused."""
    function = module["main"]
    calls = {b.var: b.value for b in straight_line.bindings(function)}
    uses = straight_line.use_counts(function)
    fused: dict[Expr, Expr] = {}
    absorbed: set[Expr] = set()
    longest_first = sorted(STEPS, key=lambda name: -len(STEPS[name]))
    for binding in reversed(straight_line.bindings(function)):
        if binding.var in absorbed:
            continue
        for name in longest_first:
            match = _match(STEPS[name], binding.value, calls, uses)
            if match is not None:
                tensors, attributes, intermediates = match
                fused[binding.var] = _call(name, tensors, attributes)
                absorbed.update(intermediates)
                break

    def rewrite(binding: Any) -> Any:
        if binding.var in absorbed:
            return None
        if binding.var in fused:
            return relax.VarBinding(binding.var, fused[binding.var])
        return binding

    result = module.clone()
    result["main"] = straight_line.rebuild(function, rewrite)
    return result


def _match(
    steps: Sequence[Step], last: Expr, calls: Mapping[Expr, Expr], uses: Mapping[Expr, int]
) -> Match | None:
    """Tensors, attributes and intermediate variables of a chain that ends in the call ``last``."""
    tensors: dict[str, Expr] = {}
    attributes: dict[str, Any] = {}
    intermediates: list[Expr] = []
    value = last
    for step in reversed(steps):
        if graph_ops.operator_of(value) is not step.operator:
            return None
        given = graph_ops.attributes_of(value)
        if any(given[name] != wanted for name, wanted in step.fixed.items()):
            return None
        attributes |= {name: given[own] for name, own in step.attributes.items()}
        for name, argument in zip(step.tensors, value.args, strict=True):
            if name:
                tensors[name] = argument
                continue
            if uses.get(argument) != 1 or argument not in calls:
                return None
            intermediates.append(argument)
            value = calls[argument]
    return tensors, attributes, intermediates


def _call(name: str, tensors: Mapping[str, Expr], attributes: Mapping[str, Any]) -> Expr:
    """Fused call with its type inferred."""
    operator = graph_ops.OPERATORS[name]
    call = graph_ops.call(name, [tensors[t] for t in operator.tensors], attributes)
    return relax.BlockBuilder().normalize(call)
