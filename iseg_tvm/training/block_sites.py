"""The trainable parts of a block that no weights belong to: attention's scales and lambda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from iseg_tvm.quantization import layers
from iseg_tvm.quantization.activation import per_unit
from iseg_tvm.quantization.layers import Array
from iseg_tvm.training.sites import Integers, Site, parameter
from iseg_tvm.training.straight_through import LIMITS, substitute
from relay_ops import OPERATORS


class AttentionSite(Site):
    """Scales of one attention.

    Parameters
    ----------
    exponent : float64 (H,), binary exponent of one unit of a logit
    ratio : float64 (H,), scale of v over that of the result
    polynomial : the artifact's
    """

    def __init__(self, exponent: Array, ratio: Array, head_width: int, polynomial: str) -> None:
        super().__init__()
        self.polynomial, self.head_width = polynomial, head_width
        self.log_exponent = parameter(np.log(exponent))
        self.log_ratio = parameter(np.log(ratio))
        self.constants: tuple[Any, ...] = ()

    def ratio(self) -> Tensor:
        """Scale of v over the result's, in the allowed range."""
        return self.log_ratio.exp().clamp(layers.OUT_RATIO_MIN, layers.OUT_RATIO_MAX * 0.999)

    def refresh(self) -> Integers:
        """Recompute the constants."""
        with torch.no_grad():
            exponent = self.log_exponent.exp().cpu().numpy()
            ratio = self.ratio().cpu().numpy()
        # The converter wants the scale of the logits, this is their exponent's.
        unit = layers.LOG2_E[self.polynomial] / self.head_width**0.5
        largest = layers.largest_logit_scale(self.polynomial, self.head_width)
        found = layers.quantize_attention(
            np.minimum(exponent / unit, largest), ratio, self.head_width, self.polynomial
        )
        names = "exp_multiplier", "exp_shift", "out_multiplier", "out_shift"
        arrays = {name: getattr(found, name) for name in names}
        device = self.log_ratio.device
        self.constants = (
            *(torch.from_numpy(a).to(device) for a in arrays.values()),
            found.fraction_bits,
            found.post_shift,
            self.polynomial,
        )
        scalars = {"fraction_bits": found.fraction_bits, "post_shift": found.post_shift}
        return {f"attention.{k}": v for k, v in {**arrays, **scalars}.items()}

    def forward(self, qkv: Tensor) -> Tensor:
        """Integers (B, N, 3 H d) to integers (B, N, H d)."""
        forward = OPERATORS["shiftmax_attention"].forward
        narrow = qkv.detach().to(torch.int8)
        value = torch.stack([forward(image, *self.constants) for image in narrow])
        heads = len(self.log_ratio)
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        natural = (self.log_exponent.exp() * np.log(2.0)).to(torch.float32).view(heads, 1, 1)
        real = functional.scaled_dot_product_attention(q * natural, k, v, scale=1.0)
        real = real * self.ratio().to(torch.float32).view(heads, 1, 1)
        real = real.transpose(1, 2).flatten(2).clamp(*LIMITS["int8"])
        return substitute(real, value.to(torch.float32))


class ActivationSite(Site):
    """An activation function's tables; a common factor ``exp(log_change)`` moves all lambdas.

    The layer before it divides its factors by the same scale, so a change of lambda moves the
    clipping and leaves unclipped values where they are. The gradient is that of a learnt step size
    (Esser et al. 2020, arXiv 1902.08153).

    Parameters
    ----------
    table_of : builds a table from input scale, output scale, output's and input's zero point
    hidden : units
    scale_in, scale_out, zero : (G,), of each group of units to begin with; the last two stay
    zero_in : (G,), input that stands for 0
    """

    def __init__(
        self,
        table_of: Callable[[float, float, int, int], Array],
        hidden: int,
        scale_in: Array,
        scale_out: Array,
        zero: Array,
        zero_in: Array,
    ) -> None:
        super().__init__()
        self.table_of, self.scale_out, self.zero = table_of, scale_out, zero
        self.scale_in, self.zero_in = scale_in, zero_in
        self.log_change = parameter(0.0)
        self.table = torch.zeros(len(scale_in), 256, dtype=torch.int8)
        for name in ("scale_in", "scale_out", "zero", "zero_in"):
            units = per_unit(getattr(self, name), hidden).astype(np.float32)
            self.register_buffer(f"unit_{name}", torch.from_numpy(units), persistent=False)

    def scale(self) -> Array:
        """Real value of one input step of each group, (G,)."""
        return self.scale_in * float(self.log_change.detach().exp())

    def refresh(self) -> Integers:
        """Recompute the tables."""
        grids = zip(self.scale(), self.scale_out, self.zero, self.zero_in, strict=True)
        table = np.stack(
            [self.table_of(float(s), float(o), int(z), int(i)) for s, o, z, i in grids]
        )
        self.table = torch.from_numpy(table).to(self.log_change.device)
        return {"activation.table": table}

    def forward(self, x: Tensor) -> Tensor:
        """Integers to integers of the same shape."""
        value = OPERATORS["shift_gelu"].forward(x.detach(), self.table)
        scale_in, scale_out, zero, zero_in = (
            self.get_buffer(f"unit_{name}") for name in ("scale_in", "scale_out", "zero", "zero_in")
        )
        real = (x - zero_in) * (scale_in * self.log_change.exp().to(torch.float32))
        real = functional.gelu(real) / scale_out + zero
        return substitute(real.clamp(*LIMITS["int8"]), value.to(torch.float32))
