"""Linear layers with their epilogue: what the pass ``fuse_epilogue`` makes of chains of operators.

Mathematics and integer definition: the composition of the parts, nothing else. The accumulator
never leaves the registers of a compiled kernel.

* ``linear_requantize(x, ..., multiplier, shift) = requantize(linear(x, ...), multiplier, shift)``
* ``linear_gelu(..., table) = shift_gelu(requantize(linear(...)) as int8, table)``
* ``linear_residual(..., skip) = residual_add(skip, requantize(linear(...)) as int16)``
* ``patch_embed_residual(image, ..., skip) = residual_add(skip, requantize(patch_embed(...)))``, all
  int16; ``skip`` is the position embedding
* ``norm_linear_requantize(x int16, gamma, beta, ...) = linear_requantize(layer_norm(x), ...)`` and
  ``norm_linear_gelu``: the normalised rows go straight into the product's packed left operand
* ``matmul_requantize(a, b, multiplier, shift) = requantize(matmul(a, b), multiplier, shift)``

Ranges and overflow: those of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay_ops import (
    layer_norm,
    linear,
    matmul,
    patch_embed,
    requantize,
    residual_add,
    shift_gelu,
)
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    TensorSpec,
    register,
)


@dataclass(frozen=True)
class Step:
    """One part of a fused operator.

    Attributes
    ----------
    operator : the part
    tensors : names of its tensors in the fused operator; empty: the previous step's result
    fixed : attributes that fusion settles; the others are the fused operator's too
    renamed : their names there, where another step has the name already
    """

    operator: Operator
    tensors: tuple[str, ...]
    fixed: Attributes
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, str]:
        """Name in the fused operator -> name in the part, of the attributes that stay open."""
        names = [name for name in self.operator.attributes if name not in self.fixed]
        return {self.renamed.get(name, name): name for name in names}


def _product(operator: Operator) -> Step:
    return Step(operator, operator.tensors, {})


def _linear_of_previous() -> Step:
    return Step(linear.OPERATOR, ("", "weight", "bias"), {})


def _normalised() -> Step:
    fixed = {"center": True, "dtype": "int8"}
    return Step(layer_norm.OPERATOR, ("x", "gamma", "beta"), fixed, {"shift": "norm_shift"})


def _requantized(**fixed: Any) -> Step:
    return Step(requantize.OPERATOR, ("", "multiplier", "shift"), fixed)


def _gelu() -> Step:
    return Step(shift_gelu.OPERATOR, ("", "table"), {})


def _residual() -> Step:
    return Step(residual_add.OPERATOR, ("skip", ""), {})


def _lower(steps: Sequence[Step]) -> Callable[[LoweringContext], Lowering]:
    """The product's kernel, with the other steps as its epilogue."""

    def lower(context: LoweringContext) -> Lowering:
        from iseg_tvm.kernels import products
        from iseg_tvm.kernels.epilogue import Epilogue

        lowerings = {
            "linear": products.lower_linear,
            "layer_norm": products.lower_norm_linear,
            "patch_embed": products.lower_patch_embed,
            "matmul": products.lower_matmul,
        }
        epilogue = Epilogue(
            dtype=context.result.dtype,
            post_shift=int(context.attributes["post_shift"]),
            skip_shift=context.attributes.get("skip_shift"),
            tables=context.types["table"].shape[0] if "table" in context.types else 0,
        )
        return lowerings[steps[0].operator.name](context, epilogue)

    return lower


def _fused(name: str, *steps: Step) -> Operator:
    """Register the composition of ``steps`` as one operator."""
    tensors = tuple(t for step in steps for t in step.tensors if t)
    attributes = {
        name: step.operator.attributes[own]
        for step in steps
        for name, own in step.attributes.items()
    }

    def infer(types: Mapping[str, TensorSpec], values: Attributes) -> TensorSpec:
        spec = types[tensors[0]]
        for step in steps:
            specs = [types[t] if t else spec for t in step.tensors]
            named = dict(zip(step.operator.tensors, specs, strict=True))
            spec = step.operator.infer(named, _attributes(step, values))
        return spec

    def compose(form: str) -> Callable[..., Any]:
        def function(*arguments: Any, **values: Any) -> Any:
            named = dict(zip(tensors, arguments, strict=True))
            result: Any = None
            for step in steps:
                parts = [named[t] if t else result for t in step.tensors]
                part = getattr(step.operator, form)
                result = part(*parts, **_attributes(step, values))
            return result

        return function

    return register(
        Operator(
            name=name,
            tensors=tensors,
            attributes=attributes,
            infer=infer,
            reference=compose("reference"),
            forward=compose("forward"),
            lower=_lower(steps),
            space=next(s for s in steps if s.operator is not layer_norm.OPERATOR).operator.space,
        )
    )


def _attributes(step: Step, values: Attributes) -> dict[str, Any]:
    return {**step.fixed, **{own: values[name] for name, own in step.attributes.items()}}


STEPS: dict[str, Sequence[Step]] = {
    "linear_requantize": (_product(linear.OPERATOR), _requantized()),
    "linear_gelu": (_product(linear.OPERATOR), _requantized(dtype="int8"), _gelu()),
    "linear_residual": (_product(linear.OPERATOR), _requantized(dtype="int16"), _residual()),
    "norm_linear_requantize": (_normalised(), _linear_of_previous(), _requantized(dtype="int8")),
    "norm_linear_gelu": (
        _normalised(),
        _linear_of_previous(),
        _requantized(dtype="int8"),
        _gelu(),
    ),
    "patch_embed_residual": (
        _product(patch_embed.OPERATOR),
        _requantized(dtype="int16"),
        _residual(),
    ),
    "matmul_requantize": (_product(matmul.OPERATOR), _requantized()),
}
"""Fused operator -> its parts, in the order they are computed."""

FUSED = {name: _fused(name, *steps) for name, steps in STEPS.items()}
