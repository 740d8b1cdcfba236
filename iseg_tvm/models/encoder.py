"""The ViT encoder: timm's, with position embeddings handled as in Segmenter."""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from iseg_tvm.models.config import EncoderConfig
from iseg_tvm.models.timm_import import (
    Attention,
    VisionTransformer,
    VisionTransformerDistilled,
)


def resize_position_embedding(
    embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Resize the grid part of a position embedding bilinearly (align_corners=False).

    Parameters
    ----------
    embedding : Tensor
        Shape (1, num_prefix_tokens + rows * columns of `old_grid`, d).
    old_grid, new_grid : tuple of int
        Rows and columns.
    num_prefix_tokens : int
        Leading tokens that belong to no patch; kept as they are.

    Returns
    -------
    Tensor
        Shape (1, num_prefix_tokens + rows * columns of `new_grid`, d).
    """
    prefix, grid = embedding[:, :num_prefix_tokens], embedding[:, num_prefix_tokens:]
    image = grid.reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(image, size=new_grid, mode="bilinear")
    return torch.cat([prefix, image.flatten(2).transpose(1, 2)], dim=1)


class _OfficialPositions:
    """Mixin for timm's ViTs: position embeddings added and resized as Segmenter does it."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    pos_drop: nn.Module
    patch_embed: nn.Module
    num_prefix_tokens: int

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding for a grid of patches.

        Parameters
        ----------
        grid : tuple of int
            Rows and columns of patches.

        Returns
        -------
        Tensor
            Shape (1, prefix tokens + rows * columns, d), float32.
        """
        rows, columns = grid
        # The official rule compares token counts, not grids: 16x64 keeps the embedding of 32x32.
        if self.num_prefix_tokens + rows * columns == self.pos_embed.shape[1]:
            return self.pos_embed
        native = cast("tuple[int, int]", self.patch_embed.grid_size)
        return resize_position_embedding(self.pos_embed, native, grid, self.num_prefix_tokens)

    def prefix_tokens(self) -> Tensor:
        """Return the class token, and distillation token if any, shape (1, prefix tokens, d)."""
        distillation = getattr(self, "dist_token", None)
        tokens = [self.cls_token] if distillation is None else [self.cls_token, distillation]
        return torch.cat(tokens, dim=1)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Flatten patches (B, rows, columns, d), prepend tokens, add positions."""
        batch, rows, columns, width = x.shape
        prefix = self.prefix_tokens().expand(batch, -1, -1)
        tokens = torch.cat([prefix, x.reshape(batch, rows * columns, width)], dim=1)
        return cast(Tensor, self.pos_drop(tokens + self.position_embedding((rows, columns))))

    def embed(self, im: Tensor) -> Tensor:
        """Tokens before the first block, (B, prefix tokens + patches, d), of (B, 3, H, W)."""
        return self._pos_embed(self.patch_embed(im))


class PlainEncoder(_OfficialPositions, VisionTransformer):
    """timm's ViT with a class token."""


class DistilledEncoder(_OfficialPositions, VisionTransformerDistilled):
    """timm's DeiT with class and distillation tokens."""


def set_fused_attention(model: nn.Module, enabled: bool) -> None:
    """Let every attention in `model` use PyTorch's fused kernel (faster, hides probabilities)."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = enabled


def build_encoder(
    config: EncoderConfig, image_size: tuple[int, int]
) -> PlainEncoder | DistilledEncoder:
    """Build a randomly initialised encoder, without a classifier, its attention not fused.

    Parameters
    ----------
    config : EncoderConfig
        Its shape.
    image_size : tuple of int
        Height and width, in pixels, that the position embeddings are for.

    Returns
    -------
    PlainEncoder or DistilledEncoder
        `forward_features(im)` maps (B, 3, H, W), float32, H and W multiples of the patch size,
        to (B, prefix tokens + patches, d).
    """
    kind = DistilledEncoder if config.distilled else PlainEncoder
    encoder = kind(
        img_size=image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        num_classes=0,
        dynamic_img_size=True,
        pos_drop_rate=config.dropout,
        proj_drop_rate=config.dropout,
        attn_drop_rate=config.dropout,
        drop_path_rate=config.drop_path_rate,
    )
    set_fused_attention(encoder, False)
    return encoder
