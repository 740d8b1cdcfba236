"""The trainable parts of an integer model: real parameters and the integers they become.

Each site keeps float parameters in the checkpoint's own units, so that learning rates mean what
they mean in float training, and turns them into the artifact's integers with fixed factors that
were found when training began (see ``iseg_tvm.quantization.grids``). What is learnt beside weights:
every requantization factor (the scale of a tensor); in `block_sites`, the exponent's scale and the
output's scale of each attention head, and lambda, the clipping of each activation's input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from iseg_tvm import operator_limits as limits
from iseg_tvm.quantization import layers
from iseg_tvm.quantization.layers import Array
from iseg_tvm.training.straight_through import LIMITS, linear_requantize, rounded, substitute
from relay_ops import OPERATORS

Integers = dict[str, np.ndarray | int]
"""Tensors and scalars of one site, by the end of their names."""

_STREAM = LIMITS["int16"]


def _real(values: Array | float) -> Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64), dtype=torch.float32)


def parameter(values: Array | float) -> nn.Parameter:
    """A parameter in float64: biases have up to 29 bits, and logarithms must give 15 of them."""
    return nn.Parameter(torch.tensor(np.asarray(values), dtype=torch.float64))


def _within(real: Array, integers: Array) -> Array:
    """``real``, moved where needed so that it rounds to ``integers``."""
    wanted = integers.astype(np.float64)
    return np.clip(real, wanted - 0.499, wanted + 0.499)


class Site(nn.Module):
    """Parameters of one part of a model, and the integers they become."""

    def refresh(self) -> Integers:
        """Recompute the integers that operators take; returns the artifact's, by part."""
        raise NotImplementedError


class RequantizeSite(Site):
    """A dyadic factor a column, learnt as its logarithm.

    Parameters
    ----------
    factor : float64 (N,), below 1; columns with 0 stay at 0
    dtype : of the result
    """

    def __init__(self, factor: Array, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype
        self.log_factor = parameter(np.log(np.where(factor > 0, factor, 1.0)))
        self.register_buffer("alive", torch.from_numpy(factor > 0))
        self.constants: dict[str, Any] = {}

    def factor(self, divisor: Tensor | float = 1.0) -> Tensor:
        """Real factor of each column, in the range that a dyadic number can express."""
        alive = self.get_buffer("alive")
        real = (self.log_factor.exp() / divisor).clamp(2.0**-30, layers.BELOW_ONE)
        return (real * alive).to(torch.float32)

    def refresh(self, divisor: Tensor | float = 1.0) -> Integers:
        """Recompute ``constants``, what the operators take, and return the artifact's form."""
        real = self.factor(divisor).detach().double().cpu().numpy()
        multiplier, shift, post_shift = layers.dyadic_columns(real, self.dtype)
        device = self.log_factor.device
        self.constants = {
            "multiplier": torch.from_numpy(multiplier).to(device),
            "shift": torch.from_numpy(shift).to(device),
            "post_shift": post_shift,
            "dtype": self.dtype,
        }
        found: Integers = {"multiplier": multiplier, "shift": shift}
        return {**found, "post_shift": post_shift} if self.dtype == "int8" else found


class LinearSite(Site):
    """A linear layer and its requantization.

    Parameters
    ----------
    weight, bias : float64 (N, K), (N,), real
    integers : (weight int8, bias int32) to begin with
    scale_in, zero_in : of the input, () or (K,)
    zero_out : integer of the result that stands for 0, () or (N,), part of ``integers``' bias
    step : real value of one accumulator step, (N,)
    factor : of the requantization, (N,)
    dtype : of the result
    levels : largest magnitude of a weight's integer
    """

    def __init__(
        self,
        weight: Array,
        integers: tuple[Array, Array],
        *,
        scale_in: Array,
        zero_in: Array | int,
        zero_out: Array | int = 0,
        step: Array,
        factor: Array,
        dtype: str,
        levels: int,
    ) -> None:
        super().__init__()
        fold = np.broadcast_to(np.asarray(scale_in, dtype=np.float64), weight.shape[1:])
        units = _within(weight * fold / step[:, None], integers[0])
        self.weight = nn.Parameter(_real(units * step[:, None] / fold))
        zero = np.broadcast_to(np.asarray(zero_in, dtype=np.int64), weight.shape[1:])
        whole = integers[1] + integers[0].astype(np.int64) @ zero
        self.register_buffer("offset", torch.from_numpy(zero_out / np.maximum(factor, 2.0**-40)))
        self.bias = parameter((whole - self.get_buffer("offset").numpy()) * step)
        self.levels = levels
        self.register_buffer("zero", torch.from_numpy(zero.copy()), persistent=False)
        self.register_buffer("fold", _real(fold))
        self.register_buffer("step", torch.from_numpy(step))
        self.requantize = RequantizeSite(factor, dtype)
        self.divisor: Tensor | float = 1.0

    def integer_weight(self) -> Tensor:
        """Integers (N, K) in float32, differentiable."""
        units = self.weight * self.get_buffer("fold")
        units = units / self.get_buffer("step").to(torch.float32)[:, None]
        return rounded(units, -self.levels, self.levels)

    def refresh(self, divisor: Tensor | float = 1.0) -> Integers:
        """Recompute the constants; ``divisor`` scales the result (see `ActivationSite`)."""
        found = self.requantize.refresh(divisor)
        self.divisor = divisor
        with torch.no_grad():
            weight = self.integer_weight().to(torch.int8)
            units = self._bias_units().add(0.5).floor().to(torch.int64)
            units -= (self.get_buffer("zero") * weight.to(torch.int64)).sum(dim=1)
            bias = units.clamp(-limits.BIAS_MAX, limits.BIAS_MAX).to(torch.int32)
        self.requantize.constants |= {"bias": bias, "zero": self.get_buffer("zero")}
        return {"weight": weight.cpu().numpy(), "bias": bias.cpu().numpy(), **found}

    def _bias_units(self) -> Tensor:
        """Bias and zero point of the result, in accumulator steps."""
        offset = self.get_buffer("offset") * self.divisor
        return self.bias / self.get_buffer("step") + offset

    def forward(self, x: Tensor) -> Tensor:
        """Integers (M, K) to integers (M, N)."""
        return linear_requantize(
            x,
            self.integer_weight(),
            self._bias_units().to(torch.float32),
            self.requantize.factor(self.divisor),
            self.requantize.constants,
        )


class NormSite(Site):
    """A LayerNorm.

    Parameters
    ----------
    gamma, beta : float64 (D,), real
    integers : (gamma int16, beta int32) to begin with
    scale_out : real value of one step of the result, () or (D,)
    shift, eps : the artifact's scalars; shift is None for an int32 result
    """

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        integers: tuple[Array, Array],
        *,
        scale_out: Array,
        shift: int | None,
        eps: int,
    ) -> None:
        super().__init__()
        self.shift, self.eps, width = shift, eps, len(gamma)
        scale = np.broadcast_to(np.asarray(scale_out, dtype=np.float64), gamma.shape)
        unit = 2.0 ** (shift or 0) / scale
        slope = unit / 2.0 ** limits.fraction_bits(width)
        self.gamma = parameter(_within(gamma * slope, integers[0]) / slope)
        self.beta = parameter(_within(beta * unit, integers[1]) / unit)
        self.register_buffer("scale", torch.from_numpy(scale.copy()))
        self.register_buffer("slope", torch.from_numpy(slope))
        self.register_buffer("unit", torch.from_numpy(np.asarray(unit)))
        self.constants: dict[str, Tensor] = {}

    def refresh(self) -> Integers:
        """Recompute the constants."""
        with torch.no_grad():
            gamma = (self.gamma * self.get_buffer("slope") + 0.5).floor()
            beta = (self.beta * self.get_buffer("unit") + 0.5).floor()
            self.constants = {
                "gamma": gamma.clamp(-limits.GAMMA_MAX, limits.GAMMA_MAX).to(torch.int16),
                "beta": beta.clamp(-limits.BETA_MAX, limits.BETA_MAX).to(torch.int32),
            }
        return {name: value.cpu().numpy() for name, value in self.constants.items()}

    def forward(self, x: Tensor, center: bool) -> Tensor:
        """Integers (M, D) to integers (M, D); of an int32 result, the real values in float64.

        An int32 result need not fit float32: only argmax reads it in a deployed model, and a loss
        wants real scores anyway.
        """
        width = x.shape[-1]
        constants = self.constants["gamma"], self.constants["beta"]
        dtype = "int32" if self.shift is None else "int8"
        value = OPERATORS["layer_norm"].forward(
            x, *constants, self.eps, self.shift or 0, center, dtype
        )
        scale, eps = self.get_buffer("scale"), self.eps / width
        gamma, beta = ((v / scale).to(torch.float32) for v in (self.gamma, self.beta))
        if center:
            real = functional.layer_norm(x, (width,), gamma, beta, eps)
        else:
            real = x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * gamma + beta
        if self.shift is None:
            return substitute(real.double(), value.double()) * scale
        return substitute(real.clamp(*LIMITS["int8"]), value.to(torch.float32))


class ConstantSite(Site):
    """An int16 tensor that is added to the stream, or is part of it.

    Parameters
    ----------
    real : float64, any shape
    integers : int16, to begin with
    scale : real value of one step
    """

    def __init__(self, real: Array, integers: Array, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.value = nn.Parameter(_real(_within(real / scale, integers) * scale))

    def refresh(self) -> Integers:
        """The artifact's tensor, under an empty name."""
        return {"": self().detach().to(torch.int16).cpu().numpy()}

    def forward(self) -> Tensor:
        """Integers in float32."""
        return rounded(self.value / self.scale, *_STREAM)
