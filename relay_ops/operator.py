"""What an integer operator is: one record that torch, the graph IR and the kernels share.

An operator file defines, in this order: its mathematics and integer definition (module
docstring), ``infer`` (types and shapes, with messages), ``reference`` (NumPy, normative),
``forward`` (PyTorch), ``lower`` (TIR), and registers the record with :func:`register`. Nothing
here or in an operator file imports TVM at module level, so the PyTorch side never loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from iseg_tvm.kernels.isa import Isa

Attributes = Mapping[str, Any]
Schedule = Mapping[str, int]
"""Blocking parameters of a kernel generator by name; those left out have their defaults."""
Space = Mapping[str, Sequence[int]]
"""Parameter -> the values worth trying, the default first. Parameters are independent."""


class OperatorError(ValueError):
    """An operator was given a dtype, shape or attribute it does not accept."""


@dataclass(frozen=True)
class TensorSpec:
    """Static type of a tensor: ``shape`` of Python integers and a dtype name such as ``int8``."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Lowering:
    """A call to a TIR kernel that replaces an operator.

    ``arguments`` are names of the operator's tensors (activations) or NumPy arrays (weights,
    packed for the kernel); the kernel writes one more, last buffer of type ``result``.
    """

    function: Any
    arguments: Sequence[str | np.ndarray]
    result: TensorSpec


@dataclass(frozen=True)
class LoweringContext:
    """What ``lower`` may look at: static types, constants, attributes and the target's ISA.

    Attributes
    ----------
    schedule : how the kernel is to be blocked; the result's bits never depend on it
    """

    types: Mapping[str, TensorSpec]
    constants: Mapping[str, np.ndarray]
    attributes: Attributes
    result: TensorSpec
    isa: Isa
    schedule: Schedule = field(default_factory=dict)

    def constant(self, name: str) -> np.ndarray:
        """Value of a tensor that must be known at compile time."""
        if name not in self.constants:
            raise OperatorError(f"'{name}' must be a constant of the model to be compiled")
        return self.constants[name]


@dataclass(frozen=True)
class Operator:
    """One integer operator.

    Attributes
    ----------
    name : str
        ``torch.ops.iseg.<name>`` and Relax ``iseg.<name>``.
    tensors : names of the tensor arguments, in order
    attributes : name -> schema type (``int``, ``bool``, ``str``, ``int[]``), in order
    infer : (types by name, attributes) -> result type; raises :class:`OperatorError`
    reference : normative NumPy function(*tensors, **attributes)
    forward : PyTorch function(*tensors, **attributes), same bits
    lower : TIR kernel for a target's ISA, blocked as ``context.schedule`` says
    space : what a tuner may put into ``context.schedule``; None if nothing
    """

    name: str
    tensors: tuple[str, ...]
    infer: Callable[[Mapping[str, TensorSpec], Attributes], TensorSpec]
    reference: Callable[..., np.ndarray]
    forward: Callable[..., torch.Tensor]
    lower: Callable[[LoweringContext], Lowering]
    attributes: Mapping[str, str] = field(default_factory=dict)
    space: Callable[[LoweringContext], Space] | None = None

    @property
    def schema(self) -> str:
        """PyTorch operator schema."""
        arguments = [f"Tensor {t}" for t in self.tensors]
        arguments += [f"{kind} {name}" for name, kind in self.attributes.items()]
        return f"{self.name}({', '.join(arguments)}) -> Tensor"

    def infer_types(self, types: Sequence[TensorSpec], attributes: Attributes) -> TensorSpec:
        """Result type; a rejection names the operator and all operand types."""
        try:
            if len(types) != len(self.tensors):
                raise OperatorError(f"takes {len(self.tensors)} tensors, got {len(types)}")
            return self.infer(dict(zip(self.tensors, types, strict=True)), attributes)
        except OperatorError as error:
            given = ", ".join(str(t) for t in types)
            raise OperatorError(f"iseg.{self.name}({given}): {error}") from None


OPERATORS: dict[str, Operator] = {}
_LIBRARY = torch.library.Library("iseg", "DEF")


def torch_spec(tensor: torch.Tensor) -> TensorSpec:
    """Static type of a (fake or real) PyTorch tensor."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def register(operator: Operator) -> Operator:
    """Add to :data:`OPERATORS` and define ``torch.ops.iseg.<name>`` with its shape function."""
    OPERATORS[operator.name] = operator
    _LIBRARY.define(operator.schema)

    def checked(*values: Any) -> torch.Tensor:
        count = len(operator.tensors)
        attributes = dict(zip(operator.attributes, values[count:], strict=True))
        operator.infer_types([torch_spec(v) for v in values[:count]], attributes)
        return operator.forward(*values[:count], **attributes)

    def fake(*values: Any) -> torch.Tensor:
        count = len(operator.tensors)
        attributes = dict(zip(operator.attributes, values[count:], strict=True))
        spec = operator.infer_types([torch_spec(v) for v in values[:count]], attributes)
        return values[0].new_empty(spec.shape, dtype=getattr(torch, spec.dtype))

    _LIBRARY.impl(operator.name, checked, "CompositeExplicitAutograd")
    torch.library.register_fake(f"iseg::{operator.name}", fake, lib=_LIBRARY)
    return operator


def require(
    types: Mapping[str, TensorSpec], name: str, dtype: str, *shape: int | None
) -> TensorSpec:
    """Check one operand's dtype and shape (``None`` matches any extent) and return its type."""
    spec = types[name]
    wanted = f"{dtype}[{', '.join('*' if s is None else str(s) for s in shape)}]"
    fits = len(spec.shape) == len(shape) and all(
        w is None or w == s for w, s in zip(shape, spec.shape, strict=True)
    )
    if spec.dtype != dtype or not fits:
        raise OperatorError(f"'{name}' must be {wanted}, is {spec}")
    return spec


def require_attribute(attributes: Attributes, name: str, low: int, high: int) -> int:
    """Check an integer attribute against its closed range and return it."""
    value = int(attributes[name])
    if not low <= value <= high:
        raise OperatorError(f"attribute '{name}' must be in [{low}, {high}], is {value}")
    return value
