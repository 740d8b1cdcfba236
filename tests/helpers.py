"""Random integer models: every tensor and scalar of ``iseg_tvm.artifact``, all within its range.

Scales are chosen so that activations use their grids (neither all 0 nor all saturated) and several
classes win. Some channels have multiplier 0, as dead channels of real models do.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from iseg_tvm import fixed_point as fp
from iseg_tvm.activation_tables import shift_gelu_table
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.models.config import DecoderConfig, EncoderConfig, SegmenterConfig
from iseg_tvm.operator_limits import table_groups
from relay_ops.layer_norm import fraction_bits

TYPICAL_INT8 = 40.0  # standard deviation aimed at on int8 grids
TYPICAL_INT16 = 4000.0
UNIFORM_STD = 73.0  # of integers uniform in [-127, 127]


def tiny_config(
    *,
    decoder: str = "mask_transformer",
    patch_size: int = 4,
    embed_dim: int = 24,
    depth: int = 2,
    num_heads: int = 3,
    num_classes: int = 7,
    image_size: tuple[int, int] = (16, 16),
    distilled: bool = False,
    l2_norm: bool = False,
    normalization: str = "vit",
) -> SegmenterConfig:
    """Return the configuration of a Segmenter that the NumPy reference runs in milliseconds."""
    encoder = EncoderConfig(
        name="vit_test",
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        distilled=distilled,
        normalization=normalization,
    )
    layers = {"num_layers": 1, "num_heads": num_heads} if decoder != "linear" else {}
    return SegmenterConfig(
        encoder=encoder,
        decoder=DecoderConfig(name=decoder, **layers),
        num_classes=num_classes,
        image_size=image_size,
        l2_norm=l2_norm,
    )


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a uint8 image (H, W, 3) of uniform noise, which includes 0 and 255."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_dataset(folder: Path, size: tuple[int, int], count: int, seed: int = 5) -> Path:
    """Write pictures of noise, with masks of 7 classes and ignored pixels, and return the folder.

    Parameters
    ----------
    folder : gets ``images/`` and ``masks/``, files ``0.png`` and so on
    size : (height, width)
    """
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        mask = rng.choice(np.array([0, 1, 2, 3, 4, 5, 255], np.uint8), size)
        Image.fromarray(random_image(*size, index)).save(folder / f"images/{index}.png")
        Image.fromarray(mask).save(folder / f"masks/{index}.png")
    return folder


class _Builder:
    """Collects tensors and scalars under a random generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, np.ndarray] = {}
        self.scalars: dict[str, int] = {}

    def integers(self, shape: tuple[int, ...], limit: float, dtype: str) -> np.ndarray:
        """Uniform integers in ``[-limit, limit]``."""
        return self.rng.integers(-int(limit), int(limit) + 1, shape).astype(dtype)

    def dyadic(self, name: str, scale: float, post_shift: int, columns: int) -> None:
        """``name.multiplier`` and ``name.shift`` around ``scale``, one channel in nine dead."""
        scales = scale * self.rng.uniform(0.5, 1.5, columns)
        pairs = [fp.dyadic(float(s), post_shift) for s in scales]
        multiplier, shift = (np.array(column) for column in zip(*pairs, strict=True))
        multiplier[4::9] = 0
        self.tensors[f"{name}.multiplier"] = multiplier.astype(np.int16)
        self.tensors[f"{name}.shift"] = shift.astype(np.int8)

    def linear(
        self, name: str, columns: int, inner: int, dtype: str, x_std: float = TYPICAL_INT8
    ) -> None:
        """One linear-like layer."""
        acc_std = x_std * UNIFORM_STD * math.sqrt(inner)
        self.tensors[f"{name}.weight"] = self.integers((columns, inner), 127, "int8")
        self.tensors[f"{name}.bias"] = self.integers((columns,), acc_std / 8, "int32")
        if dtype == "int16":
            self.dyadic(name, TYPICAL_INT16 / acc_std / 2, 0, columns)
            return
        scale = TYPICAL_INT8 / acc_std
        largest = min(fp.POST_SHIFT_MAX, -math.frexp(2 * scale)[1])
        post_shift = int(self.rng.integers(max(largest - 2, 0), largest + 1))
        self.scalars[f"{name}.post_shift"] = post_shift
        self.dyadic(name, scale, post_shift, columns)

    def norm(self, name: str, width: int, dtype: str = "int8") -> None:
        """One LayerNorm: unit variance becomes the typical int8 value."""
        bits = fraction_bits(width)
        shift = min(bits + 14 - round(math.log2(TYPICAL_INT8)), fp.SHIFT_MAX)
        gamma = self.rng.integers(2**13, 2**15, width) * self.rng.choice([-1, 1, 1, 1], width)
        self.tensors[f"{name}.gamma"] = gamma.astype(np.int16)
        self.tensors[f"{name}.beta"] = self.integers((width,), 2**shift * 4, "int32")
        self.scalars[f"{name}.eps"] = int(self.rng.integers(1, 1000))
        if dtype == "int8":
            self.scalars[f"{name}.shift"] = shift
        else:  # class scores: a large beta would let one class win everywhere
            self.tensors[f"{name}.beta"] >>= 6
            self.tensors[f"{name}.gamma"] = gamma.astype(np.int16) // 8 + 2**13

    def block(self, name: str, width: int, heads: int, hidden: int) -> None:
        """One transformer block."""
        self.norm(f"{name}.norm1", width)
        self.linear(f"{name}.qkv", 3 * width, width, "int8")
        self.attention(f"{name}.attention", width // heads, heads)
        self.linear(f"{name}.proj", width, width, "int16")
        self.norm(f"{name}.norm2", width)
        self.linear(f"{name}.fc1", hidden, width, "int8")
        # In all blocks but the first, groups of units have grids of their own.
        groups = 1 if name == "encoder.blocks.0" else table_groups(hidden)
        scales = [4.0 / (127 + 9 * group) for group in range(groups)]
        self.tensors[f"{name}.activation.table"] = np.stack(
            [shift_gelu_table(scale, 4.0 / 127) for scale in scales]
        )
        self.linear(f"{name}.fc2", width, hidden, "int16", x_std=TYPICAL_INT8 / 2)
        # A shift in every block would shift the image's share of the stream out.
        self.scalars[f"{name}.skip_shift1"] = 0
        self.scalars[f"{name}.skip_shift2"] = int(name.endswith(".0"))

    def attention(self, name: str, head_width: int, heads: int) -> None:
        """Constants of one attention: exponents of a few units, values doubled."""
        bits = int(self.rng.integers(6, 11))
        logit_std = TYPICAL_INT8**2 * math.sqrt(head_width)
        scales = self.rng.uniform(1.0, 4.0, heads) * 2.0**bits / logit_std
        pairs = [fp.dyadic(min(float(s), 0.999), 0) for s in scales]
        multiplier, shift = (np.array(column) for column in zip(*pairs, strict=True))
        self.tensors[f"{name}.exp_multiplier"] = multiplier.astype(np.int16)
        self.tensors[f"{name}.exp_shift"] = shift.astype(np.int8)
        out = self.rng.integers(2**14, 2**15, heads)
        self.tensors[f"{name}.out_multiplier"] = out.astype(np.int16)
        self.tensors[f"{name}.out_shift"] = self.rng.integers(13, 15, heads).astype(np.int8)
        self.scalars[f"{name}.fraction_bits"] = bits
        self.scalars[f"{name}.post_shift"] = int(self.rng.integers(3, 6))


def random_quantized_model(
    config: SegmenterConfig,
    seed: int = 0,
    *,
    input_size: tuple[int, int] | None = None,
    polynomial: str = "quadratic",
) -> QuantizedModel:
    """Return a random but valid integer-only model of this architecture.

    Parameters
    ----------
    config : the architecture
    seed : the same seed gives the same model
    input_size : (height, width) it runs on; ``config.image_size`` if left out
    polynomial : the attention's shift exponential
    """
    encoder, decoder = config.encoder, config.decoder
    width, classes = encoder.embed_dim, config.num_classes
    rows, columns = config.grid_size
    build = _Builder(seed)
    build.linear("encoder.patch_embed", width, 3 * encoder.patch_size**2, "int16", x_std=74)
    build.tensors["encoder.pos_embed"] = build.integers((rows * columns, width), 8000, "int16")
    tokens = (encoder.num_prefix_tokens, width)
    build.tensors["encoder.tokens"] = build.integers(tokens, 8000, "int16")
    for i in range(encoder.depth):
        hidden = int(width * encoder.mlp_ratio)
        build.block(f"encoder.blocks.{i}", width, encoder.num_heads, hidden)
    build.norm("encoder.norm", width)
    if decoder.name == "linear":
        build.linear("decoder.head", classes, width, "int16")
    else:
        build.linear("decoder.proj_dec", width, width, "int16")
        build.tensors["decoder.cls_emb"] = build.integers((classes, width), 8000, "int16")
        for i in range(decoder.num_layers):
            hidden = int(width * decoder.mlp_ratio)
            build.block(f"decoder.blocks.{i}", width, decoder.num_heads, hidden)
        build.norm("decoder.norm", width)
        build.linear("decoder.proj_patch", width, width, "int8")
        build.linear("decoder.proj_classes", width, width, "int16" if config.l2_norm else "int8")
        if config.l2_norm:
            build.norm("decoder.class_norm", width)
        mask_scale = TYPICAL_INT16 / (TYPICAL_INT8**2 * math.sqrt(width))
        build.dyadic("decoder.masks", min(mask_scale / 2, 0.6), 0, classes)
        build.norm("decoder.mask_norm", classes, "int32")
    return QuantizedModel(
        config=config,
        tensors=build.tensors,
        scalars=build.scalars,
        input_size=input_size or config.image_size,
        polynomial=polynomial,
        classes=tuple(f"class {i}" for i in range(classes)),
        palette=tuple((i, 255 - i, (7 * i) % 256) for i in range(classes)),
        provenance={"random": seed},
    )
