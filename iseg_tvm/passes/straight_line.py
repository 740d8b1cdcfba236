"""Reading and rebuilding the straight-line functions that the frontend makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

Expr = Any
Binding = Any


def bindings(function: relax.Function) -> list[Binding]:
    """All bindings of a function, in order (there is no control flow)."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def use_counts(function: relax.Function) -> dict[relax.Var, int]:
    """How often each variable is read, the function's result included."""
    counts: dict[relax.Var, int] = {}

    def visit(expr: Expr) -> None:
        if isinstance(expr, relax.Var) and not isinstance(expr, tvm.ir.GlobalVar):
            counts[expr] = counts.get(expr, 0) + 1

    for binding in bindings(function):
        relax.analysis.post_order_visit(binding.value, visit)
    relax.analysis.post_order_visit(function.body.body, visit)
    return counts


def rebuild(
    function: relax.Function, rewrite: Callable[[Binding], Binding | None]
) -> relax.Function:
    """The function with each binding rewritten; ``None`` drops it."""
    blocks = []
    for block in function.body.blocks:
        kept = [new for old in block.bindings if (new := rewrite(old)) is not None]
        is_dataflow = isinstance(block, relax.DataflowBlock)
        blocks.append(relax.DataflowBlock(kept) if is_dataflow else relax.BindingBlock(kept))
    body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, function.body.body))
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
