"""The floating-point Segmenter (Strudel et al., ICCV 2021): ViT encoder, linear or mask decoder.

Parameter names are those of the official release (``encoder.blocks.0.attn.qkv.weight``,
``decoder.cls_emb``, ...); only the encoder's unused ImageNet classifier is left out.

Where to hook for calibration; every tensor has its own module, attention is never fused unless
`Segmenter.set_fused_attention` asked for it. With B images, N tokens, d channels and h heads:

==============================================  ================================================
tensor                                          hook
==============================================  ================================================
patch embedding (B, gh, gw, d)                  output of ``encoder.patch_embed``
residual stream at a block's start (B, N, d)    input of ``blocks[i]``, and of its ``norm1``
residual stream after the attention's add       input of ``blocks[i].norm2``
residual stream after the MLP's add             output of ``blocks[i]``
LayerNorm in and out                            ``norm1``, ``norm2``, ``encoder.norm``
q, k, v as one (B, N, 3d)                       output of ``blocks[i].attn.qkv``
q, k per head (B, h, N, d/h), unscaled          output of ``attn.q_norm``, ``attn.k_norm``
attention probabilities (B, h, N, N)            output of ``attn.attn_drop``
attention output (B, N, d)                      input of ``attn.proj``
GELU in and out                                 ``blocks[i].mlp.act``
decoder: projected patches                      output of ``decoder.proj_dec``
decoder: patches and class tokens together      output of ``decoder.tokens``
decoder: the last norm                          ``decoder.decoder_norm``
decoder: patch, class features (before L2)      output of ``patch_features``, ``class_features``
decoder: mask logits before and after the norm  input and output of ``decoder.mask_norm``
==============================================  ================================================

Blocks are those of timm (`timm.models.vision_transformer.Block`), in encoder and decoder alike.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from iseg_tvm.errors import IsegError
from iseg_tvm.models.config import EncoderConfig, SegmenterConfig
from iseg_tvm.models.decoders import LinearDecoder, MaskTransformerDecoder
from iseg_tvm.models.encoder import build_encoder, set_fused_attention


class Segmenter(nn.Module):
    """Encoder and decoder; see the module's table for its hooks.

    Parameters
    ----------
    config : SegmenterConfig
        The model's configuration, kept as ``model.config``.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, config.image_size)
        linear = config.decoder.name == "linear"
        self.decoder: LinearDecoder | MaskTransformerDecoder = (
            LinearDecoder(config) if linear else MaskTransformerDecoder(config)
        )
        self.set_fused_attention(False)

    def set_fused_attention(self, enabled: bool) -> None:
        """Use PyTorch's fused attention (faster, hides the probabilities) or the plain one."""
        set_fused_attention(self, enabled)

    def normalize_uint8(self, images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Scale images to [0, 1], subtract the mean, divide by the standard deviation.

        Parameters
        ----------
        images : ndarray or Tensor
            Shape (B, H, W, 3), uint8, RGB.

        Returns
        -------
        Tensor
            Shape (B, 3, H, W), float32, on the model's device.
        """
        device = self.encoder.pos_embed.device
        return normalize_uint8(images, self.config.encoder).to(device)

    def pad(self, im: Tensor) -> Tensor:
        """Pad (B, 3, H, W) with zeros on the right and at the bottom up to the patch size."""
        height, width = im.shape[2:]
        rows, columns = self.config.grid_for(height, width)
        patch = self.config.encoder.patch_size
        return functional.pad(im, (0, columns * patch - width, 0, rows * patch - height))

    def forward_scores(self, im: Tensor) -> Tensor:
        """Return class scores of the patches.

        Parameters
        ----------
        im : Tensor
            Shape (B, 3, H, W), float32, normalised; any H and W, padded with zeros on the right
            and at the bottom up to the patch size.

        Returns
        -------
        Tensor
            Shape (B, classes, rows, columns), one score per patch and class.
        """
        if im.dim() != 4 or im.shape[1] != 3:
            raise IsegError(f"images must have shape (B, 3, H, W), found {tuple(im.shape)}")
        rows, columns = self.config.grid_for(*im.shape[2:])
        tokens = self.encoder.forward_features(self.pad(im))
        masks = self.decoder(tokens[:, self.config.encoder.num_prefix_tokens :])
        return cast(Tensor, masks.transpose(1, 2).unflatten(2, (rows, columns)))

    def forward(self, im: Tensor) -> Tensor:
        """Return class scores of the pixels: those of the patches, upsampled bilinearly.

        Parameters
        ----------
        im : Tensor
            Shape (B, 3, H, W), float32, normalised.

        Returns
        -------
        Tensor
            Shape (B, classes, H, W), float32.
        """
        scores = self.forward_scores(im)
        patch = self.config.encoder.patch_size
        padded = (scores.shape[2] * patch, scores.shape[3] * patch)
        scores = functional.interpolate(scores, size=padded, mode="bilinear")
        return scores[:, :, : im.shape[2], : im.shape[3]]


def normalize_uint8(images: npt.NDArray[np.uint8] | Tensor, config: EncoderConfig) -> Tensor:
    """Turn uint8 RGB images into the encoder's float input: ``(image / 255 - mean) / std``.

    Parameters
    ----------
    images : ndarray or Tensor
        Shape (B, H, W, 3), uint8, RGB.
    config : EncoderConfig
        Says mean and standard deviation.

    Returns
    -------
    Tensor
        Shape (B, 3, H, W), float32.

    Raises
    ------
    IsegError
        Another shape or type.
    """
    tensor = torch.as_tensor(images)
    if tensor.dtype != torch.uint8 or tensor.dim() != 4 or tensor.shape[-1] != 3:
        raise IsegError(
            f"images must be uint8 of shape (B, H, W, 3), found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    mean = torch.tensor(config.mean, device=tensor.device)
    std = torch.tensor(config.std, device=tensor.device)
    return ((tensor.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def build_segmenter(config: SegmenterConfig, seed: int = 0) -> Segmenter:
    """Build a Segmenter with random weights, in evaluation mode.

    Parameters
    ----------
    config : SegmenterConfig
        Its configuration.
    seed : int, optional
        Same seed, same weights; the caller's random state is not touched.

    Returns
    -------
    Segmenter
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(config).eval()
