"""Operators become calls of kernels; kernels are shared; what cannot be lowered is named."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from iseg_tvm import graph_ops
from iseg_tvm.errors import IsegError
from iseg_tvm.frontend import lower_to_relax, trace
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.passes.fuse_epilogue import fuse_epilogue
from iseg_tvm.passes.lower_operators import lower_operators
from iseg_tvm.passes.pipeline import called_kernels
from iseg_tvm.passes.straight_line import bindings
from relay_ops.operator import LoweringContext, Operator, Schedule
from tests.helpers import random_quantized_model, tiny_config

ISA = get_isa("avx2")


def residual_chain(*shifts: int) -> tvm.IRModule:
    """``x = residual_add(x, x)`` once for every shift."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 4), "int16"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = x
            for shift in shifts[:-1]:
                call = graph_ops.call("residual_add", [value, value], {"skip_shift": shift})
                value = builder.emit(call)
            last = graph_ops.call("residual_add", [value, value], {"skip_shift": shifts[-1]})
            result = builder.emit_output(last)
        builder.emit_func_output(result)
    return builder.get()


def test_equal_kernels_are_shared_and_variants_numbered() -> None:
    module = lower_operators(residual_chain(1, 2, 1, 2), ISA)
    relax.analysis.well_formed(module)
    names = sorted(str(g.name_hint) for g in module.get_global_vars())
    assert names == ["main", "residual_add_3x4", "residual_add_3x4_v2"]


def test_whole_model_is_lowered() -> None:
    model = random_quantized_model(tiny_config(depth=1))
    module = lower_operators(fuse_epilogue(lower_to_relax(model)), ISA)
    relax.analysis.well_formed(module)
    call_tir = tvm.ir.Op.get("relax.call_tir")
    assert all(b.value.op == call_tir for b in bindings(module["main"]))
    symbols = [str(g.name_hint) for g in module.get_global_vars()]
    assert "norm_linear_gelu_17x96x24" in symbols
    assert called_kernels(module) == ()  # call_tir hides them until CallTIRRewrite


def test_schedules_choose_the_blocking() -> None:
    model = random_quantized_model(tiny_config(depth=1))
    graph = fuse_epilogue(lower_to_relax(model))
    asked: list[str] = []

    def schedules(operator: Operator, context: LoweringContext) -> Schedule:
        asked.append(operator.name)
        return {"task_rows": 3} if operator.name == "layer_norm" else {}

    default, chosen = lower_operators(graph, ISA), lower_operators(graph, ISA, schedules)
    assert "shiftmax_attention" in asked
    differing = {
        str(symbol.name_hint)
        for symbol, function in chosen.functions_items()
        if symbol.name_hint != "main"
        and not structural_equal(function, default[str(symbol.name_hint)])
    }
    assert differing
    assert all(name.startswith("layer_norm") for name in differing)


def test_weights_that_are_no_constants_are_refused() -> None:
    graph, _ = trace(random_quantized_model(tiny_config(depth=1)))
    with pytest.raises(IsegError, match="cannot compile encoder_patch_embed.*must be a constant"):
        lower_operators(graph, ISA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: relax.op.nn.relu(x), "relax.nn.relu has no integer kernel"),
        (lambda x: relax.op.concat([x, x], axis=1), "by rows"),
        (lambda x: relax.op.concat([x, x, x], axis=0), "only two matrices"),
        (lambda x: relax.op.strided_slice(x, [1], [0], [2]), "only rows"),
        (lambda x: relax.op.strided_slice(x, [0], [0], [3], [2]), "only rows"),
    ],
)
def test_foreign_calls_are_refused(make: object, message: str) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 4), "int16"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(make(x), "y")  # type: ignore[operator]
        builder.emit_func_output(result)
    with pytest.raises(IsegError, match=message):
        lower_operators(builder.get(), ISA)


def test_constants_are_passed_packed() -> None:
    model = random_quantized_model(tiny_config(depth=1, decoder="linear"))
    module = lower_operators(fuse_epilogue(lower_to_relax(model)), ISA)
    first = bindings(module["main"])[0].value
    constants = [a for a in first.args[1] if isinstance(a, tvm.ir.GenericConst)]
    shapes = [tuple(c.value.shape) for c in constants]
    assert (48 * 32,) in shapes  # K x N padded, flat, instead of the model's (N, K)
    assert all(np.issubdtype(c.value.numpy().dtype, np.integer) for c in constants)
