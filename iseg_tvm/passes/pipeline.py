"""The ordered list of compiler passes: from the readable graph to a module TVM can build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from iseg_tvm.files import atomic_write
from iseg_tvm.kernels.isa import Isa
from iseg_tvm.passes import straight_line
from iseg_tvm.passes.check_integer_only import check_integer_only
from iseg_tvm.passes.fuse_epilogue import fuse_epilogue
from iseg_tvm.passes.lift_constants import lift_constants
from iseg_tvm.passes.lower_operators import FindSchedule, default_schedules, lower_operators

Pass = Callable[[tvm.IRModule], tvm.IRModule]
Phase = tuple[str, Pass]


def kernel_phases(isa: Isa, schedules: FindSchedule = default_schedules) -> list[Phase]:
    """From operators to kernels and a memory plan."""
    return [
        ("fuse_epilogue", fuse_epilogue),
        ("lower_operators", partial(lower_operators, isa=isa, schedules=schedules)),
        ("check_integer_only", check_integer_only),
        ("to_non_dataflow", relax.transform.ToNonDataflow()),
        ("remove_purity_checking", relax.transform.RemovePurityChecking()),
        ("call_tir_rewrite", relax.transform.CallTIRRewrite()),
        ("plan_memory", relax.transform.StaticPlanBlockMemory()),
    ]


def virtual_machine_phases() -> list[Phase]:
    """From there to instructions of the virtual machine."""
    return [
        ("lower_alloc_tensor", relax.transform.LowerAllocTensor()),
        ("kill_after_last_use", relax.transform.KillAfterLastUse()),
        ("lower_runtime_builtin", relax.transform.LowerRuntimeBuiltin()),
        ("compute_prim_value", relax.transform.ComputePrimValue()),
        ("shape_lower", relax.transform.VMShapeLower()),
        ("attach_global_symbol", relax.transform.AttachGlobalSymbol()),
    ]


@dataclass(frozen=True)
class LoweredModel:
    """Result of the pipeline.

    Attributes
    ----------
    module : ready for ``relax.build(..., relax_pipeline=None)``
    kernels : names of the kernels in the order ``main`` calls them
    peak_activation_bytes : size of all activation buffers that the memory plan keeps alive
    weights : what ``main`` takes after its own parameters; empty where it holds its constants
    """

    module: tvm.IRModule
    kernels: tuple[str, ...]
    peak_activation_bytes: int
    weights: tuple[tvm.runtime.Tensor, ...] = ()


def lower_model(
    module: tvm.IRModule,
    isa: Isa,
    target: tvm.target.Target,
    debug_dump: Path | None = None,
    schedules: FindSchedule = default_schedules,
    *,
    lift: bool = False,
) -> LoweredModel:
    """Run all phases on a module of the frontend.

    Parameters
    ----------
    module : graph with weights bound
    isa : kernel family to generate for
    target : TVM target
    debug_dump : folder that receives the module's text after each phase
    schedules : gives the blocking of each kernel
    lift : constants become parameters of ``main``

    Raises
    ------
    IsegError
        An operator has no kernel, or a floating-point type appeared.
    """
    with target:
        phases = kernel_phases(isa, schedules)
        planned = _run(module, phases, debug_dump, 1)
        kernels, peak = called_kernels(planned), planned_bytes(planned)
        planned, weights = lift_constants(planned) if lift else (planned, ())
        first = 1 + len(phases)
        return LoweredModel(
            _run(planned, virtual_machine_phases(), debug_dump, first), kernels, peak, weights
        )


def _run(
    module: tvm.IRModule, phases: Sequence[Phase], debug_dump: Path | None, first: int
) -> tvm.IRModule:
    for number, (name, run) in enumerate(phases, start=first):
        module = run(module)
        dump(module, debug_dump, number, name)
    return module


def dump(module: tvm.IRModule, folder: Path | None, number: int, name: str) -> None:
    """Write ``<number>_<name>.py``, the module's text, unless ``folder`` is None."""
    if folder is not None:
        with atomic_write(folder / f"{number:02d}_{name}.py") as stream:
            stream.write(f"{module.script(show_meta=False)}\n".encode())


def _calls(module: tvm.IRModule) -> list[Any]:
    values = [binding.value for binding in straight_line.bindings(module["main"])]
    return [value for value in values if isinstance(value, tvm.ir.Call)]


def called_kernels(module: tvm.IRModule) -> tuple[str, ...]:
    """Names of the kernels that ``main`` calls, in order."""
    symbols = [call.op for call in _calls(module) if isinstance(call.op, tvm.ir.GlobalVar)]
    return tuple(str(symbol.name_hint) for symbol in symbols)


def planned_bytes(module: tvm.IRModule) -> int:
    """Sum of the storages that ``StaticPlanBlockMemory`` laid out in ``main``."""
    allocate = tvm.ir.Op.get("relax.memory.alloc_storage")
    sizes = [call.args[0] for call in _calls(module) if call.op == allocate]
    return sum(int(size[0]) for size in sizes)
