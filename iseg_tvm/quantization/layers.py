"""Real-valued layers to integer constants, one function a kind of layer (numpy only).

``x`` stands for a real value, ``x_q`` for its integer, ``x = s x_q``. Input scales may differ by
channel: they are folded into the weights, ``w x = (w s) x_q``, at no cost at run time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iseg_tvm import fixed_point as fp
from iseg_tvm import operator_limits as limits
from iseg_tvm.errors import IsegError
from iseg_tvm.quantization.observers import Moments
from iseg_tvm.quantization.rounding import round_to_nearest, round_with_feedback

Array = np.ndarray
_SCALE_FLOOR = 2.0**-20
"""Least accumulator step over output step: below it, rounding weights no longer shows."""
BELOW_ONE = 1 - 2.0**-15
"""Largest scale that :func:`fixed_point.dyadic` does not round up to 1."""


@dataclass(frozen=True)
class IntegerLinear:
    """Constants of a linear-like layer; see ``artifact`` for shapes and types.

    Attributes
    ----------
    weight, bias, multiplier, shift : integers
    post_shift : fraction bits before the last rounding (0 for int16 results)
    step : float64 (N,), real value of one accumulator step
    """

    weight: Array
    bias: Array
    multiplier: Array
    shift: Array
    post_shift: int
    step: Array


def check_finite(name: str, values: Array) -> Array:
    """Return ``values`` as float64; raises IsegError if a value is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise IsegError(
            f"{name} holds NaN or infinity",
            "the training diverged or the checkpoint is damaged: use another one",
        )
    return array


def accumulator_step(weight: Array, bias: Array, scale_out: Array) -> Array:
    """Real value of one accumulator step per output channel: the weights' int8 grid.

    Parameters
    ----------
    weight : float64 (N, K), input scales folded in
    bias : float64 (N,)
    scale_out : float64 (N,)

    Notes
    -----
    The largest weight becomes 127, unless the bias would pass 2**29 or the channel is so small
    (or dead) that its dyadic multiplier would vanish.
    """
    largest = np.abs(weight).max(axis=1)
    return np.maximum.reduce(
        [largest / 127, np.abs(bias) / (limits.BIAS_MAX - 1), scale_out * _SCALE_FLOOR]
    )


@dataclass(frozen=True)
class LinearRequest:
    """A linear layer ``y = weight x + bias`` and the grids of ``x`` and ``y``.

    Attributes
    ----------
    weight, bias : float64 (N, K), (N,)
    scale_in : scalar or (K,)
    scale_out : scalar or (N,); every ``step / scale_out`` must be below 1 (see :func:`least_scale`)
    dtype : ``int8`` or ``int16``, of the result
    zero_in, zero_out : integers that stand for 0, scalar or (K,), scalar or (N,)
    """

    weight: Array
    bias: Array
    scale_in: Array | float
    scale_out: Array | float
    dtype: str
    zero_in: Array | int = 0
    zero_out: Array | int = 0

    @property
    def columns(self) -> Array:
        """``scale_out`` of each output, (N,)."""
        return np.broadcast_to(np.asarray(self.scale_out, dtype=np.float64), self.bias.shape)

    @property
    def offset(self) -> Array:
        """Bias with the result's zero point, (N,)."""
        return self.bias + self.zero_out * self.columns

    @property
    def folded(self) -> Array:
        """Weights of the integer input, (N, K)."""
        return self.weight * self.scale_in

    @property
    def step(self) -> Array:
        """Real value of one accumulator step, (N,)."""
        return accumulator_step(self.folded, self.offset, self.columns)


def quantize_linear(request: LinearRequest) -> IntegerLinear:
    """Integer constants of a layer, each weight rounded by itself."""
    step = request.step
    rounded = round_to_nearest(request.folded / step[:, None])
    multiplier, shift, post_shift = dyadic_columns(step / request.columns, request.dtype)
    bias = _integer_bias(request, rounded, request.offset)
    return IntegerLinear(rounded.astype(np.int8), bias, multiplier, shift, post_shift, step)


def round_linear(request: LinearRequest, moments: Moments, correct: bool) -> tuple[Array, Array]:
    """Integer weights and bias of a layer for given inputs.

    Parameters
    ----------
    request : LinearRequest
    moments : of its integer inputs; second moments, if kept, steer the weights' rounding
    correct : the bias makes the mean output the one of ``moments`` (bias correction, Nagel et al.
        2019, arXiv 1906.04721, section 4.2)

    Returns
    -------
    (weight, bias) : int8 (N, K), int32 (N,)
    """
    step, bias = request.step, request.offset
    units = request.folded / step[:, None]
    second = moments.second
    rounded = round_to_nearest(units) if second is None else round_with_feedback(units, second)
    if correct:
        target = moments.target + request.zero_out * request.columns
        bias = target - step * (rounded @ moments.input)
    return rounded.astype(np.int8), _integer_bias(request, rounded, bias)


def _integer_bias(request: LinearRequest, rounded: Array, bias: Array) -> Array:
    """Bias (N,) in accumulator steps, less what the input's zero point adds."""
    units = bias / request.step - (rounded * request.zero_in).sum(axis=1)
    whole: Array = np.clip(np.floor(units + 0.5), -limits.BIAS_MAX, limits.BIAS_MAX)
    return whole.astype(np.int32)


def least_scale(weight: Array, bias: Array, scale_in: Array | float) -> float:
    """Smallest common output scale of a layer: a right shift cannot multiply by 1 or more."""
    folded = weight * scale_in
    return float(accumulator_step(folded, bias, np.zeros(len(bias))).max() / BELOW_ONE)


def dyadic_columns(scale: Array, dtype: str) -> tuple[Array, Array, int]:
    """Dyadic form of one scale a column: ``(multiplier int16, shift int8, post_shift)``.

    An int8 result keeps 7 fraction bits, or as many as the largest scale leaves room for.
    """
    post_shift = 0
    if dtype == "int8":
        top = max(float(scale.max()), 2.0**-40)
        spare = math.floor(math.log2(BELOW_ONE / top))
        post_shift = min(max(spare, 0), fp.POST_SHIFT_MAX)
    pairs = [fp.dyadic(float(s), post_shift) for s in scale]
    multiplier = np.array([m for m, _ in pairs], dtype=np.int16)
    return multiplier, np.array([s for _, s in pairs], dtype=np.int8), post_shift


@dataclass(frozen=True)
class IntegerNorm:
    """Constants of an I-LayerNorm."""

    gamma: Array
    beta: Array
    shift: int
    eps: int


def norm_eps(width: int, eps: float, scale_in: float) -> int:
    """``width * eps`` on the grid of a sum of squared inputs, at least 1."""
    value = math.floor(width * eps / scale_in**2 + 0.5)
    return min(max(value, 1), limits.EPS_MAX)


def least_stream_scale(width: int, eps: float) -> float:
    """Scale below which :func:`norm_eps` would have to be cut short."""
    return math.sqrt(width * eps / limits.EPS_MAX)


def least_norm_scale(gamma: Array, beta: Array) -> Array:
    """Smallest output scale of each channel that :func:`fold_norm` can express."""
    unit = 2.0 ** limits.fraction_bits(len(gamma))
    return np.maximum(np.abs(gamma) / (unit * limits.GAMMA_MAX), np.abs(beta) / limits.BETA_MAX)


def fold_norm(
    gamma: Array, beta: Array, eps: int, scale_out: Array | float, *, rounded: bool = True
) -> IntegerNorm:
    """Integer constants of ``n * gamma + beta``, ``n`` being the normalised row.

    With f = ``fraction_bits(width)``: ``gamma_q = gamma / (scale_out 2**f) * 2**shift``,
    ``beta_q = beta / scale_out * 2**shift``, with the largest shift that both ranges allow.

    Parameters
    ----------
    gamma, beta : float64 (D,)
    eps : see :func:`norm_eps`
    scale_out : scalar or (D,)
    rounded : bool
        False for an int32 result: its common scale is free, so the constants fill their range.
    """
    unit = 2.0 ** limits.fraction_bits(len(gamma))
    g, b = gamma / (scale_out * unit), beta / scale_out
    room = min(
        limits.GAMMA_MAX / max(float(np.abs(g).max()), 2.0**-60),
        limits.BETA_MAX / max(float(np.abs(b).max()), 2.0**-60),
    )
    shift = 0
    if rounded:
        shift = min(max(math.floor(math.log2(room)), 0), fp.SHIFT_MAX)
        room = 2.0**shift
    return IntegerNorm(
        _round_within(g * room, limits.GAMMA_MAX).astype(np.int16),
        _round_within(b * room, limits.BETA_MAX).astype(np.int32),
        shift,
        eps,
    )


def _round_within(values: Array, largest: int) -> Array:
    return np.clip(np.floor(values + 0.5), -largest, largest)


@dataclass(frozen=True)
class IntegerAttention:
    """Constants of a Shiftmax attention, per head."""

    exp_multiplier: Array
    exp_shift: Array
    out_multiplier: Array
    out_shift: Array
    fraction_bits: int
    post_shift: int


FRACTION_BITS = 6
"""Steps of 1.1 %, which dithering makes up for; 64 fractions are a table in two registers."""

LOG2_E = {"quadratic": math.log2(math.e), "linear": 1.4375}
"""``linear`` is I-ViT's ``1 + 1/2 - 1/16``, whose error partly cancels its polynomial's."""


def largest_logit_scale(polynomial: str, head_width: int) -> float:
    """Largest ``s_q s_k`` that the exponential can take, at its fewest fraction bits."""
    unit = LOG2_E[polynomial] / math.sqrt(head_width) * 2.0**limits.FRACTION_BITS_MIN
    return BELOW_ONE / unit


def quantize_attention(
    logit_scale: Array, out_ratio: Array, head_width: int, polynomial: str
) -> IntegerAttention:
    """Integer constants of an attention.

    Parameters
    ----------
    logit_scale : float64 (H,), ``s_q s_k``, at most :func:`largest_logit_scale`
    out_ratio : float64 (H,), ``s_v / s_out``
    head_width : channels of a head
    polynomial : ``quadratic`` or ``linear``
    """
    real = logit_scale * LOG2_E[polynomial] / math.sqrt(head_width)
    spare = math.floor(math.log2(BELOW_ONE / float(real.max())))
    fraction_bits = min(max(spare, limits.FRACTION_BITS_MIN), FRACTION_BITS)
    # A head whose logits all but vanish attends evenly at any scale: keep its multiplier above 0.
    exponents = np.maximum(real * 2.0**fraction_bits, 2.0 ** -(fp.SHIFT_MAX - 1))
    exp = [fp.dyadic(min(float(e), BELOW_ONE), 0) for e in exponents]
    out = [_wide_dyadic(float(r)) for r in out_ratio]
    post_shift = fp.POST_SHIFT_MAX
    while any(limits.minimum_row_shift(s, m, post_shift) < 0 for m, s in out):
        post_shift -= 1
    return IntegerAttention(
        np.array([m for m, _ in exp], dtype=np.int16),
        np.array([s for _, s in exp], dtype=np.int8),
        np.array([m for m, _ in out], dtype=np.int16),
        np.array([s for _, s in out], dtype=np.int8),
        fraction_bits,
        post_shift,
    )


OUT_RATIO_MIN, OUT_RATIO_MAX = 0.5, 2.0**6
"""Allowed ``s_v / s_out``: out_shift in [8, 15], so every row's shift is in range at any N."""


def _wide_dyadic(scale: float) -> tuple[int, int]:
    """``scale ~ multiplier * 2**-shift``, multiplier in [2**14, 2**15)."""
    mantissa, exponent = math.frexp(scale)
    multiplier = math.floor(mantissa * 2**15 + 0.5)
    if multiplier == 2**15:
        multiplier, exponent = 2**14, exponent + 1
    return multiplier, 15 - exponent
