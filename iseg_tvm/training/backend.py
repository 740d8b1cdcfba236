"""`integer_graph.Backend` for training: operators on batches, straight-through gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iseg_tvm.training.block_sites import ActivationSite, AttentionSite
from iseg_tvm.training.sites import LinearSite, NormSite
from iseg_tvm.training.straight_through import LIMITS, requantized, substitute
from relay_ops import OPERATORS
from relay_ops.patch_embed import pixel_rows


@dataclass(frozen=True)
class Pending:
    """An accumulator that `requantize` will compute: of a layer, or of two activations."""

    site: LinearSite | None
    operands: tuple[Tensor, ...]


class Backend:
    """``integer_graph.Backend`` on batches of integers in float32, shape (B, N, channels)."""

    def call(self, operator: str, *tensors: Any, **attributes: Any) -> Any:
        """Apply an operator; constants are given as the sites they belong to."""
        result = getattr(self, f"_{operator}")(*tensors, **attributes)
        return result

    def concatenate(self, first: Tensor, second: Tensor) -> Tensor:
        """Stack rows; a constant without a batch is repeated."""
        batch = max(first, second, key=lambda t: t.dim()).shape[0]
        parts = [t if t.dim() == 3 else t.expand(batch, *t.shape) for t in (first, second)]
        return torch.cat(parts, dim=1)

    def rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        return x[:, start:stop]

    def _patch_embed(
        self, images: Tensor, site: LinearSite, _bias: Any, patch: int, pad: list[int]
    ) -> Pending:
        rows = torch.stack([pixel_rows(image, patch, pad) for image in images])
        return Pending(site, (rows.to(torch.float32),))

    def _linear(self, x: Tensor, site: LinearSite, _bias: Any) -> Pending:
        return Pending(site, (x,))

    def _matmul(self, a: Tensor, b: Tensor) -> Pending:
        return Pending(None, (a, b))

    def _requantize(self, pending: Pending, site: Any, _shift: Any, **_: Any) -> Tensor:
        if pending.site is not None:
            (x,) = pending.operands
            found: Tensor = pending.site(x.flatten(0, 1))
            return found.unflatten(0, x.shape[:2])
        a, b = pending.operands
        forward = OPERATORS["matmul"].forward
        accumulator = torch.stack([forward(*pair) for pair in zip(a, b, strict=True)])
        constants = site.constants
        result = requantized(
            accumulator.flatten(0, 1),
            ((a @ b.transpose(1, 2)) * site.factor()).flatten(0, 1),
            constants["multiplier"],
            constants["shift"],
            constants["post_shift"],
            constants["dtype"],
        )
        return result.unflatten(0, accumulator.shape[:2])

    def _residual_add(self, skip: Tensor, branch: Tensor, skip_shift: int) -> Tensor:
        value = OPERATORS["residual_add"].forward(skip.detach(), branch.detach(), skip_shift)
        real = (skip * 2.0**-skip_shift + branch).clamp(*LIMITS["int16"])
        return substitute(real, value.to(torch.float32))

    def _layer_norm(self, x: Tensor, site: NormSite, _beta: Any, center: bool, **_: Any) -> Tensor:
        found: Tensor = site(x.flatten(0, 1), center)
        return found.unflatten(0, x.shape[:2])

    def _shift_gelu(self, x: Tensor, site: ActivationSite) -> Tensor:
        found: Tensor = site(x)
        return found

    def _shiftmax_attention(self, x: Tensor, site: AttentionSite, *_: Any, **__: Any) -> Tensor:
        found: Tensor = site(x)
        return found
