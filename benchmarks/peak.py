"""What the CPU's int8 dot-product instruction reaches when nothing else is in its way.

A kernel of independent accumulators that stay in registers, made by the helpers and with the
instruction (`Isa.dot`) of the matrix products: percentages of it are of this CPU, in this process,
at its clock of the moment.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tvm

from iseg_tvm.build import tvm_target
from iseg_tvm.kernels.isa import Isa, get_isa
from iseg_tvm.kernels.micro_kernel import word_dtype
from iseg_tvm.kernels.vector import PrimFunc, T, kernel, load, scratch, splat, store
from iseg_tvm.runtime import set_num_threads
from iseg_tvm.targets import TargetSpec

_INSTRUCTIONS = {"avx512vnni": "vpdpbusd", "avxvnni": "vpdpbusd", "dotprod": "sdot"}


def dot_instruction(isa: str) -> str | None:
    """Name of the one instruction that a family's dot product is; None where it is several.

    LLVM moves parts of those out of the loop here, and a peak of what is left would mean nothing.
    """
    features = get_isa(isa).llvm_features
    return next((name for f, name in _INSTRUCTIONS.items() if f in features), None)


ACCUMULATORS = 12  # more than the latency of any of them, in instructions (4 to 10)
UNROLL = 4
STEPS = 100_000


def build_peak(isa: Isa, tasks: int) -> PrimFunc:
    """``(left words, right bytes, out)``: each task repeats dot products on its own registers."""
    lanes, group = isa.lanes, isa.k_group
    parameters = [
        ("left", (ACCUMULATORS,), word_dtype(isa)),
        ("right", (lanes * group,), "int8"),
        ("out", (tasks * ACCUMULATORS * lanes,), "int32"),
    ]
    with kernel("peak", parameters) as (builder, buffers), T.parallel(0, tasks) as task:
        left, right, out = buffers
        accumulators = [scratch(lanes, "int32") for _ in range(ACCUMULATORS)]
        for accumulator in accumulators:
            store(accumulator, 0, splat(0, "int32", lanes), lanes)
        words = [T.Bind(left[i]) for i in range(ACCUMULATORS)]
        vector = T.Bind(right[T.ramp(0, 1, lanes * group)])
        with T.serial(0, STEPS):
            for _ in range(UNROLL):
                for accumulator, word in zip(accumulators, words, strict=True):
                    total = isa.dot(load(accumulator, 0, lanes), word, vector)
                    store(accumulator, 0, total, lanes)
        for i, accumulator in enumerate(accumulators):
            index = (task * ACCUMULATORS + i) * lanes
            store(out, index, load(accumulator, 0, lanes), lanes)
    return builder.get()


class Peak:
    """The peak of one target at one number of threads, sampled whenever `sample` is called.

    Parameters
    ----------
    target : TargetSpec
        Of this machine, with a kernel family that has a `dot_instruction`.
    threads : int
        Threads that run the loop, each its own.

    Attributes
    ----------
    gops : largest sample so far, in billions of operations a second (a multiply-add is two)
    """

    def __init__(self, target: TargetSpec, threads: int) -> None:
        isa = get_isa(target.isa)
        function = build_peak(isa, threads).with_attr("global_symbol", "peak")
        library = tvm.compile(tvm.IRModule({"peak": function}), target=tvm_target(target))
        self.assembly = str(library.mod.inspect_source("asm"))
        self.threads, self.gops = threads, 0.0
        self._run = library["peak"]
        self._operations = 2 * threads * STEPS * UNROLL * ACCUMULATORS * isa.lanes * isa.k_group
        self._arguments = self._make_arguments(isa, threads)

    @staticmethod
    def _make_arguments(isa: Isa, threads: int) -> list[Any]:
        left = np.arange(1, ACCUMULATORS + 1, dtype=word_dtype(isa))
        right = np.arange(isa.lanes * isa.k_group, dtype=np.int8)
        out = np.zeros(threads * ACCUMULATORS * isa.lanes, np.int32)
        return [tvm.runtime.tensor(array) for array in (left, right, out)]

    def sample(self) -> float:
        """Run the loop once (some milliseconds); return GOPS of this run."""
        set_num_threads(self.threads)
        start = time.perf_counter()
        self._run(*self._arguments)
        gops = self._operations / (time.perf_counter() - start) / 1e9
        self.gops = max(self.gops, gops)
        return gops
