"""Which chains are fused, and which must not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from iseg_tvm import graph_ops
from iseg_tvm.passes.fuse_epilogue import fuse_epilogue
from iseg_tvm.passes.straight_line import bindings

ROWS, WIDTH = 5, 8


class Graph:
    """A few bindings of a graph under construction."""

    def __init__(self) -> None:
        self.builder = relax.BlockBuilder()
        self.x = relax.Var("x", relax.TensorType((ROWS, WIDTH), "int8"))
        self.y = relax.Var("y", relax.TensorType((WIDTH, WIDTH), "int8"))
        self.skip = relax.Var("skip", relax.TensorType((ROWS, WIDTH), "int16"))

    def op(self, name: str, *tensors: Any, **attributes: Any) -> Any:
        """Any operator."""
        return self.builder.emit(graph_ops.call(name, tensors, attributes))

    def linear(self, x: Any) -> Any:
        """A linear layer."""
        weight = relax.const(np.ones((WIDTH, WIDTH), np.int8))
        return self.op("linear", x, weight, relax.const(np.zeros(WIDTH, np.int32)))

    def norm(self, x: Any) -> Any:
        """A LayerNorm."""
        gamma = relax.const(np.full(WIDTH, 2**14, np.int16))
        beta = relax.const(np.zeros(WIDTH, np.int32))
        return self.op(
            "layer_norm", x, gamma, beta, eps=1, shift=20, center=True, dtype="int8"
        )

    def requantize(self, acc: Any, dtype: str) -> Any:
        """Its requantization."""
        multiplier = relax.const(np.full(WIDTH, 2**14, np.int16))
        shift = relax.const(np.full(WIDTH, 3, np.int8))
        return self.op("requantize", acc, multiplier, shift, post_shift=0, dtype=dtype)

    def gelu(self, x: Any) -> Any:
        """A table."""
        return self.op("shift_gelu", x, relax.const(np.arange(-128, 128).astype(np.int8)[None]))

    def residual(self, skip: Any, branch: Any) -> Any:
        """An addition."""
        return self.op("residual_add", skip, branch, skip_shift=1)


def fused(make: Any) -> list[str]:
    """Operators of ``main`` after fusion; ``make(graph)`` returns the function's result."""
    graph = Graph()
    with graph.builder.function("main", [graph.x, graph.y, graph.skip]):
        with graph.builder.dataflow():
            result = graph.builder.emit_output(make(graph))
        graph.builder.emit_func_output(result)
    module = fuse_epilogue(graph.builder.get())
    relax.analysis.well_formed(module)
    operators = [graph_ops.operator_of(b.value) for b in bindings(module["main"])]
    return [operator.name for operator in operators if operator is not None]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda g: g.requantize(g.linear(g.x), "int8"), "linear_requantize"),
        (lambda g: g.gelu(g.requantize(g.linear(g.x), "int8")), "linear_gelu"),
        (lambda g: g.residual(g.skip, g.requantize(g.linear(g.x), "int16")), "linear_residual"),
        (
            lambda g: g.requantize(g.linear(g.norm(g.skip)), "int8"),
            "norm_linear_requantize",
        ),
        (
            lambda g: g.gelu(g.requantize(g.linear(g.norm(g.skip)), "int8")),
            "norm_linear_gelu",
        ),
        (lambda g: g.requantize(g.op("matmul", g.x, g.y), "int16"), "matmul_requantize"),
    ],
)
def test_chains(make: Any, expected: str) -> None:
    assert fused(make) == [expected]


def test_two_layers_in_a_row() -> None:
    def make(g: Graph) -> Any:
        hidden = g.gelu(g.requantize(g.linear(g.x), "int8"))
        return g.residual(g.skip, g.requantize(g.linear(hidden), "int16"))

    assert fused(make) == ["linear_gelu", "linear_residual"]


def test_branch_in_the_place_of_the_skip_is_not_taken_for_it() -> None:
    def make(g: Graph) -> Any:
        return g.residual(g.requantize(g.linear(g.x), "int16"), g.skip)

    assert fused(make) == ["linear_requantize", "residual_add"]


def test_result_with_two_readers_stays() -> None:
    def make(g: Graph) -> Any:
        y = g.requantize(g.linear(g.x), "int16")
        return g.residual(y, y)

    assert fused(make) == ["linear_requantize", "residual_add"]


def test_accumulator_with_two_readers_stays() -> None:
    def make(g: Graph) -> Any:
        acc = g.linear(g.x)
        return g.residual(g.requantize(acc, "int16"), g.requantize(acc, "int16"))

    assert fused(make) == ["linear", "requantize", "requantize", "residual_add"]


def test_norm_with_two_readers_stays() -> None:
    def make(g: Graph) -> Any:
        x = g.norm(g.skip)
        left = g.requantize(g.linear(x), "int16")
        return g.residual(g.requantize(g.linear(x), "int16"), left)

    assert fused(make) == ["layer_norm", "linear_requantize", "linear_residual"]


def test_nothing_to_fuse() -> None:
    assert fused(lambda g: g.residual(g.skip, g.skip)) == ["residual_add"]


def test_original_module_is_untouched() -> None:
    graph = Graph()
    with graph.builder.function("main", [graph.x, graph.y, graph.skip]):
        with graph.builder.dataflow():
            value = graph.requantize(graph.linear(graph.x), "int8")
            result = graph.builder.emit_output(value)
        graph.builder.emit_func_output(result)
    module = graph.builder.get()
    before = module.script()
    fuse_epilogue(module)
    assert module.script() == before
    assert isinstance(module["main"], tvm.relax.Function)
