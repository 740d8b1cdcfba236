"""Configurations of Segmenter models: frozen dataclasses that turn into JSON and back.

Names and presets follow the paper (Strudel et al., "Segmenter: Transformer for Semantic
Segmentation", ICCV 2021, section 4.1, table 1): Seg-T, Seg-S, Seg-B and Seg-L are ViT-Tiny, Small,
Base and Large encoders; ``-Mask`` marks the mask-transformer decoder; ``/16`` is the patch size.

This module needs neither torch nor timm.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from iseg_tvm.errors import IsegError
from iseg_tvm.models.config_fields import build_dataclass, require_positive, require_rate

# Mean and standard deviation per channel (R, G, B) of an image scaled to [0, 1].
NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

DECODERS = ("mask_transformer", "linear")

# Width, depth and heads of the ViT family (Dosovitskiy et al. 2021, table 1; Tiny: DeiT, table 1).
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}

_PRESET_DECODERS = {"mask": "mask_transformer", "linear": "linear"}
_HEAD_DIM = 64  # every published encoder and decoder: heads = width / 64


@dataclass(frozen=True)
class EncoderConfig:
    """A plain ViT encoder.

    Parameters
    ----------
    name : str
        timm's name of the backbone (``"vit_tiny_patch16_384"``); a label only.
    patch_size : int
        Side of a patch, in pixels.
    embed_dim, depth, num_heads : int
        Width of a token, number of blocks, attention heads a block.
    mlp_ratio : float
        Hidden width of the MLP over `embed_dim`.
    distilled : bool
        A distillation token follows the class token (DeiT).
    normalization : {"vit", "deit"}
        Which mean and standard deviation images are normalised with.
    layer_norm_eps : float
        Epsilon of every LayerNorm: 1e-5 in Segmenter, 1e-6 in timm's own ViTs.
    dropout, drop_path_rate : float
        Used in training only.
    """

    name: str
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    distilled: bool = False
    normalization: str = "vit"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges and that the heads divide the width."""
        owner = f"encoder {self.name}"
        require_positive(self, owner, "patch_size", "embed_dim", "depth", "num_heads")
        require_positive(self, owner, "mlp_ratio", "layer_norm_eps")
        require_rate(self, owner, "dropout", "drop_path_rate")
        if self.embed_dim % self.num_heads:
            raise IsegError(f"{owner}: {self.num_heads} heads do not divide {self.embed_dim}")
        if self.normalization not in NORMALIZATIONS:
            raise IsegError(
                f"{owner}: unknown normalization {self.normalization!r}",
                f"known: {', '.join(NORMALIZATIONS)}",
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token, and distillation token if there is one."""
        return 2 if self.distilled else 1

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean per channel of an image in [0, 1]."""
        return NORMALIZATIONS[self.normalization][0]

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation per channel of an image in [0, 1]."""
        return NORMALIZATIONS[self.normalization][1]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder; ``"linear"`` has no layers and no heads.

    Parameters
    ----------
    name : {"mask_transformer", "linear"}
    num_layers, num_heads : int
        Blocks of the mask transformer and heads a block. Its width is the encoder's.
    mlp_ratio : float
        Hidden width of the MLP over the width.
    dropout, drop_path_rate : float
        For training.
    """

    name: str
    num_layers: int = 0
    num_heads: int = 0
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        """Check the name and the ranges."""
        owner = f"decoder {self.name}"
        if self.name not in DECODERS:
            raise IsegError(f"unknown decoder {self.name!r}", f"known: {', '.join(DECODERS)}")
        require_rate(self, owner, "dropout", "drop_path_rate")
        if self.name == "mask_transformer":
            require_positive(self, owner, "num_layers", "num_heads", "mlp_ratio")
        elif self.num_layers or self.num_heads:
            raise IsegError(f"{owner}: has no blocks, so num_layers and num_heads must be 0")


@dataclass(frozen=True)
class SegmenterConfig:
    """A whole Segmenter model.

    Parameters
    ----------
    encoder : EncoderConfig
        The encoder.
    decoder : DecoderConfig
        The decoder.
    num_classes : int
        Classes of the segmentation.
    image_size : tuple of int
        Height and width, in pixels, of the position embeddings; other sizes run too.
    l2_norm : bool
        The mask decoder divides patch and class features by their L2 norm, as official models do.
    dataset : str
        Data set that the classes are of (``"ade20k"``, ``"cityscapes"``, ...), or empty.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    num_classes: int
    image_size: tuple[int, int] = (512, 512)
    l2_norm: bool = True
    dataset: str = ""

    def __post_init__(self) -> None:
        """Check ranges, and that patches and decoder heads come out even."""
        owner = "segmenter"
        require_positive(self, owner, "num_classes")
        height, width = self.image_size
        patch = self.encoder.patch_size
        if min(height, width) < 1 or height % patch or width % patch:
            raise IsegError(
                f"{owner}: image size {height}x{width} is no multiple of the patch size {patch}"
            )
        heads = self.decoder.num_heads
        if heads and self.encoder.embed_dim % heads:
            raise IsegError(
                f"{owner}: {heads} decoder heads do not divide the width {self.encoder.embed_dim}"
            )

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`."""
        return self.grid_for(*self.image_size)

    def grid_for(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image, padded up to the patch size."""
        patch = self.encoder.patch_size
        return -(-height // patch), -(-width // patch)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as a dictionary that JSON can hold."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegmenterConfig":
        """Build a configuration from what `to_dict` returned.

        Parameters
        ----------
        values : mapping
            The dictionary, for example read from JSON.

        Returns
        -------
        SegmenterConfig
            The configuration; fields with a default may be absent.

        Raises
        ------
        IsegError
            A field is missing, unknown, of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise IsegError("model configuration: expected named fields")
        found = dict(values)
        for name, kind in (("encoder", EncoderConfig), ("decoder", DecoderConfig)):
            if name in found:
                found[name] = build_dataclass(kind, found[name], f"model configuration, {name}")
        if "image_size" in found:
            size = found["image_size"]
            sides = tuple(size) if isinstance(size, list | tuple) else ()
            if [type(side) for side in sides] != [int, int]:
                raise IsegError(f"model configuration: image_size must be two ints, found {size!r}")
            found["image_size"] = sides
        return build_dataclass(cls, found, "model configuration")


def segmenter_preset(
    name: str,
    *,
    patch_size: int = 16,
    num_classes: int = 150,
    image_size: tuple[int, int] = (512, 512),
    distilled: bool = False,
    l2_norm: bool = True,
    dataset: str = "",
) -> SegmenterConfig:
    """Return the configuration of a model of the paper.

    Parameters
    ----------
    name : str
        ``seg_{tiny,small,base,large}_{mask,linear}``: Seg-T-Mask is ``"seg_tiny_mask"``.
    patch_size : int, optional
        Side of a patch, in pixels.
    num_classes : int, optional
        Classes of the segmentation.
    image_size : tuple of int, optional
        Height and width, in pixels, of the position embeddings.
    distilled : bool, optional
        A DeiT encoder: distillation token, ImageNet normalisation.
    l2_norm : bool, optional
        Keep the L2 norm of the mask decoder.
    dataset : str, optional
        Name of the data set.

    Returns
    -------
    SegmenterConfig
        The configuration.

    Raises
    ------
    IsegError
        The name is unknown, or sizes do not fit.
    """
    prefix, _, rest = name.partition("_")
    size, _, head = rest.partition("_")
    if prefix != "seg" or size not in VIT_SIZES or head not in _PRESET_DECODERS:
        known = ", ".join(f"seg_{s}_{h}" for s in VIT_SIZES for h in _PRESET_DECODERS)
        raise IsegError(f"unknown model {name!r}", f"known: {known}")
    embed_dim, depth, num_heads = VIT_SIZES[size]
    family = f"deit_{size}_distilled" if distilled else f"vit_{size}"
    encoder = EncoderConfig(
        name=f"{family}_patch{patch_size}_384",
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        distilled=distilled,
        normalization="deit" if distilled else "vit",
    )
    return SegmenterConfig(
        encoder=encoder,
        decoder=decoder_preset(_PRESET_DECODERS[head], embed_dim),
        num_classes=num_classes,
        image_size=image_size,
        l2_norm=l2_norm,
        dataset=dataset,
    )


def decoder_preset(name: str, embed_dim: int) -> DecoderConfig:
    """Return the paper's decoder for an encoder of this width: two layers, width / 64 heads."""
    if name == "linear":
        return DecoderConfig(name="linear")
    return DecoderConfig(
        name=name, num_layers=2, num_heads=max(1, embed_dim // _HEAD_DIM), dropout=0.1
    )
