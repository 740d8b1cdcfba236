"""From the float Segmenter and its statistics to the integer model's tensors and scalars.

Grids: LayerNorm outputs (of the last ones unless an option says otherwise), v and the attention's
output have one int8 scale a channel, folded into the neighbouring weights; q and k one a head;
class features and mask logits one a tensor; the activation's input and output one scale and zero
point a group of hidden units; the residual stream one int16 scale a position, growing by powers
of two only. All is float64 NumPy in a fixed order: same input, same bits.
"""

from __future__ import annotations

import numpy as np

from iseg_tvm import operator_limits as limits
from iseg_tvm.models.decoders import MaskTransformerDecoder
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization import layers
from iseg_tvm.quantization.context import Context
from iseg_tvm.quantization.layers import Array
from iseg_tvm.quantization.transformer import NORM_HEADROOM, convert_blocks, plan_blocks

_INT16_MAX = 2**15 - 1


class Plan:
    """Scales inside the blocks, which bias correction must know before layers are converted."""

    def __init__(self, context: Context, model: Segmenter) -> None:
        depths = model.config.encoder.depth, model.config.decoder.num_layers
        self.encoder = plan_blocks(context, "encoder.blocks", depths[0])
        self.decoder = plan_blocks(context, "decoder.blocks", depths[1])
        self.norms = {"encoder.norm": _last_norm_scale(context, "encoder.norm", "encoder.norm")}
        if isinstance(model.decoder, MaskTransformerDecoder):
            tokens = _last_norm_scale(context, "decoder.norm", "decoder.decoder_norm")
            self.norms["decoder.norm"] = tokens


def convert(context: Context, model: Segmenter, plan: Plan) -> Array:
    """Fill ``context.tensors`` and ``.scalars``; returns the scales of the encoder's features."""
    features = plan.norms["encoder.norm"]
    _encoder(context, model, plan)
    if isinstance(model.decoder, MaskTransformerDecoder):
        _mask_decoder(context, model.decoder, plan)
    else:
        layer = context.layer("decoder.head")
        scale = max(context.wide_scale("decoder.head"), layers.least_scale(*layer, features))
        context.linear("decoder.head", layer, features, scale, "int16")
    return features


def fold_patch_embedding(
    weight: Array, bias: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Array, Array]:
    """Matrix and bias from ``pixel - 128`` to the convolution of the normalised image.

    ``(p / 255 - mean) / std = (p - 128) / (255 std) + (128 / 255 - mean) / std``.

    Parameters
    ----------
    weight : float64 (D, 3, P, P)
    bias : float64 (D,)
    mean, std : per channel, of an image in [0, 1]

    Returns
    -------
    (D, P * P * 3), ordered row, column, channel; and (D,)
    """
    m, s = np.asarray(mean), np.asarray(std)
    folded = weight.transpose(0, 2, 3, 1) / (255 * s)
    constant = (weight.sum(axis=(2, 3)) * ((128 / 255 - m) / s)).sum(axis=1)
    return folded.reshape(len(bias), -1), bias + constant


def _encoder(context: Context, model: Segmenter, plan: Plan) -> None:
    config, parameters = model.config.encoder, context.parameters
    weight, bias = fold_patch_embedding(
        parameters["encoder.patch_embed.proj.weight"],
        parameters["encoder.patch_embed.proj.bias"],
        config.mean,
        config.std,
    )
    prefix = config.num_prefix_tokens
    position = parameters["encoder.pos_embed"][0]
    tokens = [parameters["encoder.cls_token"][0]]
    if config.distilled:
        tokens.append(parameters["encoder.dist_token"][0])
    prefix_tokens = np.concatenate(tokens) + position[:prefix]
    peak = max(_peak(prefix_tokens), _peak(position[prefix:]))
    eps = config.layer_norm_eps
    least = max(
        context.wide_scale("encoder.patch_embed", "encoder.blocks.0.in", constants=peak),
        layers.least_scale(weight, bias, 1.0),
        layers.least_stream_scale(config.embed_dim, eps),
    )
    first, last = convert_blocks(context, plan.encoder, eps, least)
    context.linear("encoder.patch_embed", (weight, bias), 1.0, first, "int16")
    context.tensors["encoder.pos_embed"] = _to_int16(position[prefix:], first)
    context.tensors["encoder.tokens"] = _to_int16(prefix_tokens, first)
    _last_norm(context, "encoder.norm", "encoder.norm", eps, last, plan)


def _last_norm_scale(context: Context, site: str, name: str) -> Array:
    """int8 scale of each channel of a stack's last LayerNorm."""
    gamma, beta = context.layer_norm(name)
    least = layers.least_norm_scale(gamma, beta)
    if context.options.feature_scales:
        return np.maximum(context.channel_scale(site, NORM_HEADROOM), least)
    return np.full(len(gamma), max(float(context.scale(site)[0]), float(least.max())))


def _last_norm(
    context: Context, site: str, name: str, eps: float, scale_in: float, plan: Plan
) -> None:
    """Convert a stack's last LayerNorm to int8."""
    gamma, beta = context.layer_norm(name)
    integer_eps = layers.norm_eps(len(gamma), eps, scale_in)
    context.emit_norm(site, layers.fold_norm(gamma, beta, integer_eps, plan.norms[site]))


def _mask_decoder(context: Context, decoder: MaskTransformerDecoder, plan: Plan) -> None:
    eps, features = decoder.decoder_norm.eps, plan.norms["encoder.norm"]
    weight, bias = context.layer("decoder.proj_dec")
    embedding = context.parameters["decoder.cls_emb"][0]
    least = max(
        context.wide_scale("decoder.proj_dec", "decoder.blocks.0.in", constants=_peak(embedding)),
        layers.least_scale(weight, bias, features),
        layers.least_stream_scale(len(bias), eps),
    )
    first, last = convert_blocks(context, plan.decoder, eps, least)
    context.linear("decoder.proj_dec", (weight, bias), features, first, "int16")
    context.tensors["decoder.cls_emb"] = _to_int16(embedding, first)
    _last_norm(context, "decoder.norm", "decoder.decoder_norm", eps, last, plan)
    tokens = plan.norms["decoder.norm"]
    left = _projection(context, "decoder.proj_patch", tokens, "int8")
    if decoder.l2_norm:
        wide = _projection(context, "decoder.proj_classes", tokens, "int16")
        right = _class_norm(context, len(bias), wide)
    else:
        right = _projection(context, "decoder.proj_classes", tokens, "int8")
    _mask_norm(context, decoder, left * right)


def _projection(context: Context, name: str, scale_in: Array, dtype: str) -> float:
    """Convert ``x @ P`` (no bias); returns the output's scale."""
    weight = context.parameters[name].T
    bias = np.zeros(len(weight))
    observed = float(context.scale(name)[0]) if dtype == "int8" else context.wide_scale(name)
    scale = max(observed, layers.least_scale(weight, bias, scale_in))
    context.linear(name, (weight, bias), scale_in, scale, dtype)
    return scale


def _class_norm(context: Context, width: int, scale_in: float) -> float:
    """Convert the classes' L2 norm to int8; returns the scale of the unit vectors.

    The operator without centring gives ``sqrt(width) x / |x|``; the float model has no eps.
    """
    site = "decoder.class_norm"
    least = 1 / (2.0 ** limits.fraction_bits(width) * limits.GAMMA_MAX)
    scale = max(float(context.scale(site)[0]), least)
    ones, zeros = np.ones(width), np.zeros(width)
    context.emit_norm(site, layers.fold_norm(ones, zeros, 1, scale))
    return scale / width**0.5


def _mask_norm(context: Context, decoder: MaskTransformerDecoder, product: float) -> None:
    """Convert the mask logits and their LayerNorm, whose int32 result only argmax reads.

    ``product`` is the real value of one step of ``patch . class``. With L2 norm the patches are
    not divided by their norm, a factor per row that the LayerNorm removes; only its eps must be
    multiplied by the squared norm, for which the calibration's mean square stands.
    """
    classes = decoder.num_classes
    scale = max(context.wide_scale("decoder.masks"), product / layers.BELOW_ONE)
    multiplier, shift, _ = layers.dyadic_columns(np.full(classes, product / scale), "int16")
    context.emit_requantize("decoder.masks", multiplier, shift, None)
    eps = decoder.mask_norm.eps
    if decoder.l2_norm:
        statistics = context.statistics
        eps *= statistics.patch_norm_squares / max(statistics.patch_count, 1)
    gamma, beta = context.layer_norm("decoder.mask_norm")
    norm = layers.fold_norm(gamma, beta, layers.norm_eps(classes, eps, scale), 1.0, rounded=False)
    context.emit_norm("decoder.mask_norm", norm)


def _peak(values: Array) -> float:
    return float(np.abs(values).max())


def _to_int16(values: Array, scale: float) -> Array:
    """Round half up onto an int16 grid."""
    return np.clip(np.floor(values / scale + 0.5), -_INT16_MAX - 1, _INT16_MAX).astype(np.int16)
