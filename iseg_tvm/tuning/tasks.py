"""What there is to tune in a model: its operators at their shapes, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.build import tvm_target
from iseg_tvm.frontend import lower_to_relax
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.passes.lower_operators import kernel_name
from iseg_tvm.passes.pipeline import lower_model
from iseg_tvm.targets import TargetSpec
from iseg_tvm.workload import default_schedule, workload_key, workload_module
from relay_ops.operator import LoweringContext, Operator, Schedule, Space


@dataclass(frozen=True)
class Task:
    """One operator at fixed shapes, with the constants of the first layer that has them.

    Attributes
    ----------
    name : kernel's name in a compiled model
    key : what makes it equal to another task, see :mod:`iseg_tvm.workload`
    calls : how often one run of the model calls it
    """

    name: str
    key: str
    operator: Operator
    context: LoweringContext
    calls: int

    @property
    def space(self) -> Space:
        """Parameters and their candidates, defaults first."""
        assert self.operator.space is not None
        return self.operator.space(self.context)

    @property
    def default(self) -> Schedule:
        """The schedule that an empty one stands for."""
        return default_schedule(self.space)

    @property
    def module(self) -> tvm.IRModule:
        """The workload in MetaSchedule's database."""
        return workload_module(self.operator, self.context)

    def tensors(self, seed: int) -> dict[str, np.ndarray]:
        """Arguments of the operator: the layer's constants, random activations of all values."""
        rng = np.random.default_rng(seed)
        tensors: dict[str, np.ndarray] = {}
        for name in self.operator.tensors:
            spec = self.context.types[name]
            info = np.iinfo(spec.dtype)
            tensors[name] = (
                self.context.constants[name]
                if name in self.context.constants
                else rng.integers(info.min, info.max, spec.shape, spec.dtype, endpoint=True)
            )
        return tensors

    def expected(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Result of the normative NumPy definition."""
        ordered = [tensors[name] for name in self.operator.tensors]
        return self.operator.reference(*ordered, **self.context.attributes)


def extract_tasks(model: QuantizedModel, target: TargetSpec) -> list[Task]:
    """Tasks of a model in the order their kernels are called.

    Raises
    ------
    IsegError
        The model cannot be compiled for the target.
    """
    seen: dict[str, Task] = {}

    def record(operator: Operator, context: LoweringContext) -> Schedule:
        if operator.space is not None:
            key = workload_key(operator, context)
            calls = seen[key].calls + 1 if key in seen else 1
            context = seen[key].context if key in seen else context
            seen[key] = Task(kernel_name(operator, context), key, operator, context, calls)
        return {}

    # The pipeline that compiles, so that what is tuned is what will be looked up.
    lower_model(
        lower_to_relax(model), get_isa(target.isa), tvm_target(target), schedules=record
    )
    return list(seen.values())
