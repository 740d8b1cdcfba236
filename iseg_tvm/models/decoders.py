"""The two decoders of Segmenter: point-wise linear, and mask transformer."""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.models.timm_import import Block

_INIT_STD = 0.02


def _init_weights(module: nn.Module) -> None:
    """Initialise Linear layers as the paper's code: truncated normal, std 0.02; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_INIT_STD)
        nn.init.zeros_(module.bias)


class LinearDecoder(nn.Module):
    """A point-wise linear layer from patch tokens to class scores (paper, section 3.2).

    Parameters
    ----------
    config : SegmenterConfig
        The model's configuration.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.encoder.embed_dim, config.num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map patch tokens (B, patches, d) to scores (B, patches, classes)."""
        return cast(Tensor, self.head(x))


class MaskTransformerDecoder(nn.Module):
    """Class tokens and patches through transformer blocks, then their scalar products.

    ``masks = LayerNorm(patches @ proj_patch @ (classes @ proj_classes)^T)``, both factors divided
    by their L2 norm if `l2_norm` (paper, section 3.2, equation 3).

    Parameters
    ----------
    config : SegmenterConfig
        The model's configuration.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        width, decoder = config.encoder.embed_dim, config.decoder
        rates = np.linspace(0, decoder.drop_path_rate, decoder.num_layers).tolist()
        self.num_classes = config.num_classes
        self.l2_norm = config.l2_norm
        self.proj_dec = nn.Linear(width, width)
        self.cls_emb = nn.Parameter(torch.empty(1, config.num_classes, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                decoder.num_heads,
                mlp_ratio=decoder.mlp_ratio,
                qkv_bias=True,
                proj_drop=decoder.dropout,
                attn_drop=decoder.dropout,
                drop_path=rate,
                norm_layer=nn.LayerNorm,
            )
            for rate in rates
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.proj_patch = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.proj_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.mask_norm = nn.LayerNorm(config.num_classes)
        # Named hooks for tensors that no other module returns.
        self.tokens = nn.Identity()
        self.patch_features = nn.Identity()
        self.class_features = nn.Identity()
        self.apply(_init_weights)
        nn.init.trunc_normal_(self.cls_emb, std=_INIT_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Map patch tokens (B, patches, d) to scores (B, patches, classes)."""
        classes = self.cls_emb.expand(x.shape[0], -1, -1)
        x = self.tokens(torch.cat([self.proj_dec(x), classes], dim=1))
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches = self.patch_features(x[:, : -self.num_classes] @ self.proj_patch)
        classes = self.class_features(x[:, -self.num_classes :] @ self.proj_classes)
        if self.l2_norm:
            patches = patches / patches.norm(dim=-1, keepdim=True)
            classes = classes / classes.norm(dim=-1, keepdim=True)
        return cast(Tensor, self.mask_norm(patches @ classes.transpose(1, 2)))
