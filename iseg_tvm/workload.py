"""What a tuning record is for: one operator at fixed shapes for one kernel family.

A record must survive changes of the kernel generators, so its key is not the kernel's code but what
the kernel computes: the operator, its tensors' types and the attributes that shape its code. Shift
amounts, constants and weights do not count: any blocking is right for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm

from iseg_tvm.kernels.vector import IRBuilder, PrimFunc, T
from relay_ops.operator import LoweringContext, Operator, Schedule, Space, TensorSpec

BLOCK = "kernel"
"""Name of the block in a workload's module; schedules are its annotations."""

_PREFIX = "iseg."
_CONSTANTS = frozenset({"eps", "pad", "fraction_bits"})


def workload_key(operator: Operator, context: LoweringContext) -> str:
    """One line, equal for calls that may share a schedule."""
    tensors = [f"{name}: {_kind(name, context.types[name])}" for name in operator.tensors]
    attributes = [f"{k}={context.attributes[k]}" for k in operator.attributes if _shapes(k)]
    arguments = ", ".join(tensors + attributes)
    return f"{operator.name}({arguments}) -> {context.result} [{context.isa.name}]"


def _kind(name: str, spec: TensorSpec) -> TensorSpec:
    """A tensor's type; of tables only a row's, as any blocking is right for any number of them."""
    return TensorSpec(spec.shape[1:], spec.dtype) if name == "table" else spec


def _shapes(attribute: str) -> bool:
    return attribute not in _CONSTANTS and not attribute.endswith("shift")


def default_schedule(space: Space) -> Schedule:
    """The schedule that an empty one stands for: the first candidate of each parameter."""
    return {name: values[0] for name, values in space.items()}


def workload_module(operator: Operator, context: LoweringContext) -> tvm.IRModule:
    """Module that stands for the workload in MetaSchedule's database: the key, and the result.

    It holds one opaque block that writes the result. A schedule of it is no transformation: its
    sampled decisions become annotations of the block, and kernels are generated from these.
    """
    spec = context.result
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True, f"{_PREFIX}workload": workload_key(operator, context)})
        result = T.arg("result", T.buffer(spec.shape, spec.dtype))
        with T.sblock(BLOCK):
            T.reads()
            T.writes(result[tuple(slice(0, n) for n in spec.shape)])
            T.evaluate(0)
    function: PrimFunc = builder.get()
    return tvm.IRModule({"main": function})


def sample(schedule: tvm.s_tir.Schedule, name: str, values: Sequence[int], *,
           first: bool = False) -> None:  # fmt: skip
    """Let a schedule of a workload choose a parameter; ``first``: its default."""
    even = [1.0 / len(values)] * len(values)
    value = schedule.sample_categorical(list(values), even, 0 if first else None)
    schedule.annotate(schedule.get_sblock(BLOCK), _PREFIX + name, value)


def chosen(schedule: tvm.s_tir.Schedule) -> Schedule:
    """Parameters that a schedule of a workload has chosen."""
    annotations = schedule.get(schedule.get_sblock(BLOCK)).annotations
    return {
        str(key).removeprefix(_PREFIX): int(value)
        for key, value in annotations.items()
        if str(key).startswith(_PREFIX)
    }
