"""Loading and saving Segmenter checkpoints, and encoders in timm's format.

The official release (https://github.com/rstrudel/segmenter, table "Model Zoo") is a folder with
``checkpoint.pth``, whose key ``model`` holds the weights, and ``variant.yml``.
"""

import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write
from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.models.encoder import (
    DistilledEncoder,
    PlainEncoder,
    build_encoder,
    resize_position_embedding,
)
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.models.variant import read_variant, variant_text
from iseg_tvm.models.weights import check_weights, read_weight_file

CHECKPOINT_FILE = "checkpoint.pth"
VARIANT_FILE = "variant.yml"

# Classifiers of the encoder's pretraining: in every official checkpoint, never used by Segmenter.
_CLASSIFIERS = ("head.", "head_dist.")
_IMAGENET_CLASSES = 1000
# Parameters of a timm ViT that only its pretraining or classification used.
_TIMM_UNUSED = (*_CLASSIFIERS, "fc_norm.", "pre_logits.", "mask_token")
_TIMM_WRAPPERS = ("model", "state_dict")
_LAYER_SCALE = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}


def load_checkpoint(path: str | os.PathLike[str]) -> Segmenter:
    """Load a model of the official release format.

    Parameters
    ----------
    path : str or path-like
        The folder, or the ``.pth`` file in it.

    Returns
    -------
    Segmenter
        The model in evaluation mode, float32, on the CPU.

    Raises
    ------
    IsegError
        The folder or one of its files is missing or damaged, loading would run code, or weights
        do not fit the configuration or are not finite.
    """
    given = Path(path)
    if not given.exists():
        raise IsegError(f"checkpoint {given} does not exist", "check the path")
    file = given / CHECKPOINT_FILE if given.is_dir() else given
    config = read_variant(file.with_name(VARIANT_FILE))
    content = read_weight_file(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise IsegError(
            f"{file} has no dictionary of weights under the key 'model'",
            "it is no Segmenter checkpoint; encoders alone are read by load_timm_encoder",
        )
    # Only shapes are needed before the weights come: the meta device allocates nothing.
    with torch.device("meta"):
        model = Segmenter(config)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    weights = check_weights(_segmenter_names(content["model"]), expected, str(file))
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_().eval()


def _segmenter_names(state: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Drop the unused classifiers, and the prefix that distributed training adds to names."""
    unused = tuple(f"encoder.{head}" for head in _CLASSIFIERS)
    for name, value in state.items():
        plain = str(name).removeprefix("module.")
        if not plain.startswith(unused):
            yield plain, value


def save_checkpoint(model: Segmenter, folder: str | os.PathLike[str]) -> Path:
    """Save a model in the official release format.

    The official code can load the result strictly: the classifiers it expects are written as
    zeros that take no room in the file.

    Parameters
    ----------
    model : Segmenter
        The model.
    folder : str or path-like
        Created if missing; other files in it are kept.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    IsegError
        A file cannot be written.
    """
    target = Path(folder)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    encoder = model.config.encoder
    zero = torch.zeros(())
    for head in _CLASSIFIERS[: encoder.num_prefix_tokens]:
        state[f"encoder.{head}weight"] = zero.expand(_IMAGENET_CLASSES, encoder.embed_dim)
        state[f"encoder.{head}bias"] = zero.expand(_IMAGENET_CLASSES)
    # Through memory: torch.save reports a full disk as an error of its own.
    buffer = io.BytesIO()
    torch.save({"model": state}, buffer)
    with atomic_write(target / CHECKPOINT_FILE) as stream:
        stream.write(buffer.getbuffer())
    with atomic_write(target / VARIANT_FILE) as stream:
        stream.write(variant_text(model.config).encode())
    return target


def load_timm_encoder(
    path: str | os.PathLike[str], config: SegmenterConfig
) -> PlainEncoder | DistilledEncoder:
    """Load a plain timm ViT as an encoder.

    Parameters
    ----------
    path : str or path-like
        A state dict: ``.safetensors``, or a PyTorch file (bare, or under ``model`` or
        ``state_dict``).
    config : SegmenterConfig
        `encoder` and `image_size` must describe it; position embeddings of another (square) grid
        are resized.

    Returns
    -------
    PlainEncoder or DistilledEncoder
        The encoder in evaluation mode, float32.

    Raises
    ------
    IsegError
        The file is missing, damaged, would run code, or does not fit.
    """
    content = read_weight_file(Path(path))
    if isinstance(content, Mapping):
        wrapped = [key for key in _TIMM_WRAPPERS if isinstance(content.get(key), Mapping)]
        content = content[wrapped[0]] if wrapped else content
    if not isinstance(content, Mapping):
        raise IsegError(f"{path} holds no dictionary of weights", "save model.state_dict()")
    return encoder_from_timm_state(content, config, str(path))


def encoder_from_timm_state(
    state: Mapping[str, object], config: SegmenterConfig, source: str
) -> PlainEncoder | DistilledEncoder:
    """Build an encoder from the state dict of a plain timm ViT.

    Layer-scale is folded into the layer before it: ``gamma * (W x + b) = (gamma W) x + gamma b``.

    Parameters
    ----------
    state : mapping of str to Tensor
        timm's names.
    config : SegmenterConfig
        `encoder` and `image_size` must describe it.
    source : str
        Where the weights are from, for messages.

    Returns
    -------
    PlainEncoder or DistilledEncoder
        The encoder in evaluation mode, float32.

    Raises
    ------
    IsegError
        A tensor is missing, unexpected, of another shape or type, or not finite.
    """
    with torch.device("meta"):
        encoder = build_encoder(config.encoder, config.image_size)
    expected = {name: value.shape for name, value in encoder.state_dict().items()}
    kept = {str(k): v for k, v in state.items() if not str(k).startswith(_TIMM_UNUSED)}
    scales = {
        f"{block}{scale}": torch.Size([config.encoder.embed_dim])
        for block in (f"blocks.{i}." for i in range(config.encoder.depth))
        for scale in _LAYER_SCALE
        if f"{block}{scale}" in kept
    }
    stored = kept.get("pos_embed")
    if isinstance(stored, Tensor) and stored.dim() == 3:
        expected["pos_embed"] = torch.Size([1, stored.shape[1], config.encoder.embed_dim])
    weights = check_weights(kept.items(), {**expected, **scales}, source)
    for name in scales:
        block, scale = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        gamma, layer = weights.pop(name), f"{block}.{_LAYER_SCALE[scale]}"
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] * gamma[:, None]
        weights[f"{layer}.bias"] = weights[f"{layer}.bias"] * gamma
    weights["pos_embed"] = _fit_positions(weights["pos_embed"], config, source)
    encoder.load_state_dict(weights, assign=True)
    return encoder.requires_grad_().eval()


def _fit_positions(embedding: Tensor, config: SegmenterConfig, source: str) -> Tensor:
    """Resize position embeddings of a square grid to the configuration's, if they differ."""
    prefix = config.encoder.num_prefix_tokens
    rows, columns = config.grid_size
    patches = embedding.shape[1] - prefix
    if patches == rows * columns:
        return embedding
    side = math.isqrt(max(patches, 0))
    if side == 0 or side * side != patches:
        raise IsegError(
            f"{source}: pos_embed has {embedding.shape[1]} tokens, which is no square grid plus "
            f"{prefix} (class{' and distillation' if prefix == 2 else ''}) token",
            "register tokens and models without a class token are not supported",
        )
    return resize_position_embedding(embedding, (side, side), (rows, columns), prefix)
