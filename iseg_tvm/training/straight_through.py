"""Integer results with the gradients of the real functions they stand for.

Tensors here hold integers in float32, which carries int8 and int16 values exactly; accumulators
stay int32. The straight-through estimator (Bengio et al. 2013, arXiv 1308.3432) lets gradients pass
rounding unchanged, and stops them where a value is saturated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from relay_ops import OPERATORS

LIMITS = {"int8": (-128.0, 127.0), "int16": (-32768.0, 32767.0)}


class _Substitute(torch.autograd.Function):
    """Value of one tensor, gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def substitute(surrogate: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` exactly; gradients go to ``surrogate``, of the same shape."""
    result: Tensor = _Substitute.apply(surrogate, value)
    return result


def rounded(real: Tensor, low: float, high: float) -> Tensor:
    """``floor(real + 1/2)`` in [low, high], in float32; gradients pass inside that range."""
    return substitute(real.clamp(low, high), (real + 0.5).floor().clamp(low, high))


def requantized(
    accumulator: Tensor, real: Tensor, multiplier: Tensor, shift: Tensor, post: int, dtype: str
) -> Tensor:
    """The integer ``requantize`` with the gradient of ``real``, the unrounded result.

    Parameters
    ----------
    accumulator : int32 (M, N)
    real : float32 (M, N)
    multiplier, shift : int16 (N,), int8 (N,)
    post : ``post_shift``
    dtype : ``int8`` or ``int16``
    """
    value = OPERATORS["requantize"].forward(accumulator, multiplier, shift, post, dtype)
    return substitute(real.clamp(*LIMITS[dtype]), value.to(torch.float32))


class _LinearRequantize(torch.autograd.Function):
    """``linear`` and ``requantize`` with one matrix product forward and two backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        factor: Tensor,
        constants: dict[str, Any],
    ) -> Tensor:
        accumulator = OPERATORS["linear"].forward(x, weight, constants["bias"])
        multiplier, shift = constants["multiplier"], constants["shift"]
        y = OPERATORS["requantize"].forward(
            accumulator, multiplier, shift, constants["post_shift"], constants["dtype"]
        )
        real = accumulator.to(torch.float32) * factor
        ctx.save_for_backward(x, weight, factor, real)
        ctx.zero, ctx.limits = constants["zero"], LIMITS[constants["dtype"]]
        return y.to(torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor, real = ctx.saved_tensors
        low, high = ctx.limits
        inside = (real >= low) & (real <= high)
        gradient = gradients[0] * inside
        # Only columns, not rows, have their own factor: d real / d factor = real / factor.
        to_factor = (gradient * real).sum(dim=0) / factor
        gradient = gradient * factor
        to_x = gradient @ weight if ctx.needs_input_grad[0] else None
        # The bias is stored less weight @ zero: seen from the weights, x starts at its zero.
        total = gradient.sum(dim=0)
        to_weight = gradient.T @ x - total[:, None] * ctx.zero
        return to_x, to_weight, total, to_factor, None


def linear_requantize(
    x: Tensor, weight: Tensor, bias: Tensor, factor: Tensor, constants: dict[str, Any]
) -> Tensor:
    """``requantize(linear(x))`` in integers, differentiable.

    Parameters
    ----------
    x : integers (M, K)
    weight : integers (N, K)
    bias : float32 (N,), in accumulator steps and without the zero point's part; only its gradient
        matters
    factor : float32 (N,), real value of the multiplier
    constants : ``bias`` int32, ``multiplier`` int16, ``shift`` int8, ``post_shift``, ``dtype``,
        ``zero`` (of the input, (K,)): what the deployed model uses
    """
    result: Tensor = _LinearRequantize.apply(x, weight, bias, factor, constants)
    return result
