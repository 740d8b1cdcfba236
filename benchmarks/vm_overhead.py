"""What the virtual machine itself costs: the compiled graph with every kernel's body emptied."""

from __future__ import annotations

import statistics
import time

import numpy as np
import tvm
from tvm import relax, tirx

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.build import tvm_target
from iseg_tvm.frontend import bind_weights, trace
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.passes.pipeline import lower_model
from iseg_tvm.targets import TargetSpec


def empty_kernels(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with the body of every TIR function replaced by nothing."""
    result = tvm.IRModule(dict(module.functions), attrs=module.attrs)
    for symbol, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            result[symbol] = function.with_body(tirx.Evaluate(0))
    return result


def vm_overhead_ms(model: QuantizedModel, target: TargetSpec, repeats: int = 200) -> float:
    """Median milliseconds of a run that allocates, checks and calls, but computes nothing.

    Parameters
    ----------
    model : the integer model
    target : what to compile for
    repeats : timed runs
    """
    llvm = tvm_target(target)
    graph, weights = trace(model)
    lowered = lower_model(bind_weights(graph, weights), get_isa(target.isa), llvm)
    executable = relax.build(empty_kernels(lowered.module), llvm, relax_pipeline=None)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    image = tvm.runtime.tensor(np.zeros((*model.input_size, 3), np.uint8))
    times = []
    for _ in range(repeats + 10):
        start = time.perf_counter()
        main(image)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[10:])
