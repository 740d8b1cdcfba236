"""The integer primitives of ``iseg_tvm.fixed_point`` on PyTorch tensors (any device, same bits)."""

from __future__ import annotations

import torch


def rounding_shift_right(x: torch.Tensor, shift: torch.Tensor | int) -> torch.Tensor:
    """``floor((x + 2**(shift-1)) / 2**shift)``; identity where ``shift`` is 0."""
    s = torch.as_tensor(shift, dtype=x.dtype, device=x.device)
    half = torch.where(s > 0, torch.ones_like(s) << (s - 1).clamp(min=0), torch.zeros_like(s))
    return (x + half) >> s


def multiply_high_rounding(a: torch.Tensor, b: torch.Tensor | int) -> torch.Tensor:
    """``(a * b + 2**14) >> 15`` for int16 values held in int32."""
    return (a * b + (1 << 14)) >> 15


def saturate(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Clamp to the signed ``bits``-bit range."""
    return x.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def requantize(
    acc: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor, post_shift: int, bits: int
) -> torch.Tensor:
    """See ``iseg_tvm.fixed_point.requantize``; int32 in, int32 (saturated to ``bits``) out."""
    t = saturate(rounding_shift_right(acc, shift.to(torch.int32)), 16)
    z = multiply_high_rounding(t, multiplier.to(torch.int32))
    return saturate(rounding_shift_right(z, post_shift), bits)


def matmul(a: torch.Tensor, b: torch.Tensor, largest_product: int) -> torch.Tensor:
    """Exact ``a @ b`` in int32, for operands whose products are at most ``largest_product``.

    float32 carries integers up to 2**24 exactly; the inner dimension is cut into pieces whose
    partial sums cannot pass that, and the pieces are added as integers. TF32 or bfloat16 inputs
    would still be exact: no operand needs more than 8 significant bits.
    """
    piece = max(1, 2**24 // largest_product)
    total = None
    for start in range(0, a.shape[-1], piece):
        x = a[..., start : start + piece].to(torch.float32)
        y = b[..., start : start + piece, :].to(torch.float32)
        part = torch.matmul(x, y).to(torch.int32)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("matmul: empty inner dimension")
    return total


def bit_length(x: torch.Tensor) -> torch.Tensor:
    """Bits needed for each non-negative integer (0 for 0), by binary search: no float."""
    rest, bits = x.clone(), torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1) if x.dtype == torch.int64 else (16, 8, 4, 2, 1):
        big = (rest >> step) > 0
        bits = torch.where(big, bits + step, bits)
        rest = torch.where(big, rest >> step, rest)
    return bits + (rest > 0).to(x.dtype)


def isqrt(x: torch.Tensor) -> torch.Tensor:
    """``floor(sqrt(x))`` for int64 values below 2**32, digit by digit."""
    rest, root = x.clone(), torch.zeros_like(x)
    for k in range(15, -1, -1):
        trial = (root + root + (1 << k)) << k
        take = rest >= trial
        rest = torch.where(take, rest - trial, rest)
        root = torch.where(take, root + (1 << k), root)
    return root
