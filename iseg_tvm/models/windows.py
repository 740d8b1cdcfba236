"""The float model on windows of its training images, which keep their place."""

from __future__ import annotations

from typing import cast

import numpy.typing as npt
import torch
from torch import Tensor

from iseg_tvm.models.segmenter import Segmenter


def window_scores(
    model: Segmenter, images: npt.NDArray | Tensor, place: tuple[int, int] = (0, 0)
) -> Tensor:
    """Run a model on windows, with the position embeddings of their place in the whole image.

    Attention is most of the cost of large images; windows make training cheaper, and distances
    between patches mean the same in all of them.

    Parameters
    ----------
    model : Segmenter
    images : ndarray or Tensor
        Shape (B, H, W, 3), uint8; sides are multiples of the patch.
    place : (row, column) of the windows, in patches of an image of ``model.config.image_size``

    Returns
    -------
    Tensor
        Shape (B, classes, rows, columns), float32.
    """
    encoder, prefix = model.encoder, model.config.encoder.num_prefix_tokens
    patches = encoder.patch_embed(model.normalize_uint8(images))
    rows, columns = patches.shape[1:3]
    positions = encoder.pos_embed[:, prefix:].unflatten(1, model.config.grid_size)
    top, left = place
    positions = positions[:, top : top + rows, left : left + columns]
    first = (encoder.prefix_tokens() + encoder.pos_embed[:, :prefix]).expand(len(images), -1, -1)
    tokens = torch.cat([first, (patches + positions).flatten(1, 2)], dim=1)
    masks = model.decoder(encoder.norm(encoder.blocks(tokens))[:, prefix:])
    return cast(Tensor, masks.transpose(1, 2).unflatten(2, (rows, columns)))
