"""No floating-point type passes the checker, wherever it hides."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from iseg_tvm.errors import IsegError
from iseg_tvm.kernels.vector import T, kernel
from iseg_tvm.passes.check_integer_only import check_integer_only, check_llvm_integer_only

PARAMETERS = [("a", (8,), "int32"), ("b", (8,), "int32")]


def module_of(value: object) -> tvm.IRModule:
    """PrimFunc that stores ``value(a[i])``."""
    with kernel("copy", PARAMETERS) as (builder, (a, b)), T.serial(8) as i:
        T.buffer_store(b, value(a[i]), [i])  # type: ignore[operator]
    return tvm.IRModule({"copy": builder.get()})


def test_integer_kernel_passes() -> None:
    module = module_of(lambda x: T.max(x * x, T.int32(3)) >> T.int32(1))
    assert check_integer_only(module) is module


@pytest.mark.parametrize(
    "value",
    [
        lambda x: T.cast(T.cast(x, "float32"), "int32"),
        lambda x: T.cast(T.sqrt(T.cast(x, "float64")), "int32"),
        lambda x: T.cast(T.cast(x, "bfloat16"), "int32"),
        lambda x: T.reinterpret("int32", T.reinterpret("float32", x)),
        lambda x: x + T.cast(T.exp2(T.float32(2)), "int32"),
    ],
)
def test_float_expression_is_found_and_shown(value: object) -> None:
    with pytest.raises(IsegError, match=r"^copy is not integer-only \(b?float\d\d\): .*b\[.*\] = "):
        check_integer_only(module_of(value))


def test_float_buffer_is_found() -> None:
    with (
        kernel("scratch", PARAMETERS) as (builder, (a, b)),
        T.serial(8) as i,
    ):
        T.alloc_buffer((4,), "float32")
        T.buffer_store(b, a[i], [i])
    with pytest.raises(IsegError, match="scratch is not integer-only"):
        check_integer_only(tvm.IRModule({"scratch": builder.get()}))


def graph_module(make: object) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "int32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(make(x))  # type: ignore[operator]
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: relax.op.astype(relax.op.astype(x, "float32"), "int32"),
        lambda x: relax.op.add(x, relax.op.astype(relax.const(np.ones(4, "float32")), "int32")),
    ],
)
def test_float_in_the_graph_is_found(make: object) -> None:
    with pytest.raises(IsegError, match="main is not integer-only"):
        check_integer_only(graph_module(make))


def test_integer_graph_passes() -> None:
    check_integer_only(graph_module(lambda x: relax.op.add(x, x)))


def llvm_ir(module: tvm.IRModule) -> str:
    module = tvm.IRModule({"main": module["copy"].with_attr("global_symbol", "main")})
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2", "mtriple": "x86_64-linux-gnu"})
    return str(tvm.tirx.build(module, target=target).inspect_source("ll"))


def test_llvm_ir_of_an_integer_kernel_passes() -> None:
    check_llvm_integer_only(llvm_ir(module_of(lambda x: x + T.int32(1))))


def test_llvm_ir_of_a_float_kernel_is_refused() -> None:
    text = llvm_ir(module_of(lambda x: T.cast(T.cast(x, "float32") * T.float32(0.3), "int32")))
    with pytest.raises(IsegError, match=r"main\S* is not integer-only: .*float"):
        check_llvm_integer_only(text)
