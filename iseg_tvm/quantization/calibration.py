"""Running the float model on calibration images and observing every tensor that gets a grid.

Sites, by the artifact's names (``B`` is ``encoder.blocks.i`` or ``decoder.blocks.i``):

=========================================  =====================================================
site                                       what is observed
=========================================  =====================================================
``encoder.patch_embed``                    patch embedding, before positions are added
``B.in``, ``B.mid``, ``B.out``             residual stream at the start, after each addition
``B.norm1``, ``B.norm2``                   LayerNorm outputs
``B.qkv``                                  one group a head of q, of k, of v
``B.attention``                            one group a head of the attention's output
``B.proj``, ``B.fc2``                      what is added to the stream
``B.fc1``                                  negative, then positive activation inputs: one group
                                           each for every group of hidden units
``B.activation``                           activation outputs
``encoder.norm``, ``decoder.norm``         last LayerNorm of either part
``decoder.proj_dec``, ``decoder.proj_patch``, ``decoder.proj_classes``, ``decoder.masks``,
``decoder.head``                           outputs; masks before their norm, patches not normalised
``decoder.class_norm``                     class features, L2-normalised times ``sqrt(width)``
=========================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from iseg_tvm.errors import IsegError
from iseg_tvm.models.decoders import LinearDecoder
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.activation import group_sizes
from iseg_tvm.quantization.observers import Histogram, signed_parts

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in total."""


@dataclass
class Statistics:
    """Observations by site.

    Attributes
    ----------
    images : how many were calibrated on
    groups : whether hidden units are observed in groups, or all together
    sites : name -> histogram
    patch_norm_squares, patch_count : sum of squared L2 norms of the decoder's patch features, and
        how many there were
    """

    images: int = 1
    groups: bool = True
    sites: dict[str, Histogram] = field(default_factory=dict)
    patch_norm_squares: float = 0.0
    patch_count: int = 0

    def observe(self, site: str, values: Tensor, groups: int | Sequence[int] = 1) -> None:
        """Add ``values`` to a site; ``groups`` as of `Histogram`."""
        self.sites.setdefault(site, Histogram(groups)).update(values)

    def maximum(self, *sites: str) -> float:
        """Largest magnitude at any of the sites."""
        return max(float(self.sites[site].maximum.max()) for site in sites)


def calibrate(
    model: Segmenter,
    images: Sequence[np.ndarray],
    progress: Progress | None = None,
    *,
    groups: bool = True,
) -> Statistics:
    """Observe the float model on images, one at a time.

    Parameters
    ----------
    model : Segmenter
        In evaluation mode; left as it was.
    images : sequence of ndarray
        uint8 (H, W, 3), RGB, all of one size.
    progress : callable, optional
        Called after each image.
    groups : bool
        Whether hidden units are observed in groups, or all together.

    Raises
    ------
    IsegError
        An activation is not finite.
    """
    statistics = Statistics(len(images), groups=groups)
    observe_views(model, images, statistics, "calibrating", progress)
    for site, histogram in statistics.sites.items():
        if not np.isfinite(histogram.maximum).all():
            raise IsegError(
                f"activations of {site} are not finite on the calibration images",
                "the float model itself overflows on them: check the checkpoint",
            )
    return statistics


def observe_views(
    model: Segmenter,
    images: Sequence[np.ndarray],
    statistics: Statistics,
    stage: str,
    progress: Progress | None,
) -> None:
    """Let ``statistics`` see a forward pass of every view of every image."""
    with observing(model, statistics), fused_attention(model), torch.no_grad():
        for done, shown in enumerate(all_views(images), start=1):
            for view in shown:
                model.forward_scores(model.normalize_uint8(np.array(view[None], order="C")))
            if progress is not None:
                progress(stage, done, len(images))


def all_views(images: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """What calibration makes of each image (see :func:`views`).

    Pictures without colour say nothing of colours, so they are tinted, unless another has some:
    then tints only widen the grids.
    """
    tinted = all(np.ptp(image, axis=2).mean() < _COLOURLESS for image in images)
    return (views(image, tinted=tinted) for image in images)


def views(image: np.ndarray, *, tinted: bool = False) -> list[np.ndarray]:
    """Twelve pictures made of an image, uint8 (H, W, 3) each: first itself.

    One photograph alone reaches only part of most channels' ranges, and clipping what another
    photograph reaches costs far more than a coarser grid. Mirrored, with exchanged colours, its
    quarters enlarged, grey, darker, with less contrast: such views widen ranges without new data.
    ``tinted`` gives tinted quarters and toned views in the place of exchanged colours and of grey.
    """
    height, width = image.shape[:2]
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    corners = [(top, left) for top in (0, height // 2) for left in (0, width // 2)]
    quarters = [_enlarged(image, top, left) for top, left in corners]
    other, plain = image[:, :, ::-1], grey
    if tinted:
        quarters = [(q * tint).astype(np.uint8) for q, tint in zip(quarters, _TINTS, strict=True)]
        other, plain = (_toned(image, exponents) for exponents in _TONES)
    return [
        image,
        image[:, ::-1],
        image[::-1],
        other,
        *quarters,
        plain,
        image // 2,
        grey[::-1] // 2 + 127,
        image // 4 + 96,
    ]


_COLOURLESS = 3.0
"""Mean difference between a pixel's largest and smallest channel in a picture without colour."""

_TINTS = np.array([[1.0, 0.75, 0.5], [0.5, 0.75, 1.0], [0.6, 1.0, 0.6], [1.0, 0.6, 0.9]])
_TONES = np.array([[0.6, 1.0, 1.8], [1.8, 1.2, 0.6]])


def _toned(image: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Channels as powers of brightness: dark and bright parts get other colours."""
    return (255 * (image / 255) ** exponents).astype(np.uint8)


def _enlarged(image: np.ndarray, top: int, left: int) -> np.ndarray:
    """A quarter of an image, as large as the image."""
    height, width = image.shape[:2]
    part = image[top : top + (height + 1) // 2, left : left + (width + 1) // 2]
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


@contextmanager
def fused_attention(model: Segmenter) -> Iterator[None]:
    """Attention probabilities are not observed, so N x N matrices need not be stored."""
    before = {m: m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}
    model.set_fused_attention(True)
    try:
        yield
    finally:
        for module, value in before.items():
            module.fused_attn = value


@contextmanager
def observing(model: Segmenter, statistics: Statistics) -> Iterator[None]:
    """Let ``statistics.observe`` see every site (module docstring) of each forward pass."""
    with _hooks(model, statistics), _mask_hooks(model, statistics):
        yield


@contextmanager
def _hooks(model: Segmenter, statistics: Statistics) -> Iterator[None]:
    handles: list[Any] = []

    def on_output(module: nn.Module, site: str, groups: int = 1) -> None:
        handles.append(
            module.register_forward_hook(lambda _m, _a, y: statistics.observe(site, y, groups))
        )

    def on_input(module: nn.Module, site: str, groups: int = 1) -> None:
        handles.append(
            module.register_forward_pre_hook(lambda _m, a: statistics.observe(site, a[0], groups))
        )

    def on_block(block: Any, name: str) -> None:
        heads = block.attn.num_heads
        on_input(block, f"{name}.in")
        on_output(block.norm1, f"{name}.norm1")
        on_output(block.attn.qkv, f"{name}.qkv", 3 * heads)
        on_input(block.attn.proj, f"{name}.attention", heads)
        on_output(block.attn.proj, f"{name}.proj")
        on_input(block.norm2, f"{name}.mid")
        on_output(block.norm2, f"{name}.norm2")
        hidden = block.mlp.fc1.out_features
        units = group_sizes(hidden, None if statistics.groups else 1) * 2
        handles.append(
            block.mlp.act.register_forward_pre_hook(
                lambda _m, a: statistics.observe(f"{name}.fc1", signed_parts(a[0]), units)
            )
        )
        on_output(block.mlp.act, f"{name}.activation")
        on_output(block.mlp.fc2, f"{name}.fc2")
        on_output(block, f"{name}.out")

    encoder, decoder = model.encoder, model.decoder
    on_output(encoder.patch_embed, "encoder.patch_embed")
    for i, block in enumerate(encoder.blocks):
        on_block(block, f"encoder.blocks.{i}")
    on_output(encoder.norm, "encoder.norm")
    if isinstance(decoder, LinearDecoder):
        on_output(decoder.head, "decoder.head")
    else:
        on_output(decoder.proj_dec, "decoder.proj_dec")
        for i, block in enumerate(decoder.blocks):
            on_block(block, f"decoder.blocks.{i}")
        on_output(decoder.decoder_norm, "decoder.norm")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _mask_hooks(model: Segmenter, statistics: Statistics) -> Iterator[None]:
    """Hooks of the mask decoder's last product, whose patch factor integers do not normalise."""
    decoder = model.decoder
    if isinstance(decoder, LinearDecoder):
        yield
        return
    patches: list[Tensor] = []

    def on_patches(_m: nn.Module, _a: Any, y: Tensor) -> None:
        statistics.observe("decoder.proj_patch", y)
        statistics.patch_norm_squares += float(y.double().square().sum())
        statistics.patch_count += y.shape[-2]
        patches[:] = [y]

    def on_classes(_m: nn.Module, _a: Any, y: Tensor) -> None:
        statistics.observe("decoder.proj_classes", y)
        if decoder.l2_norm:
            y = y / y.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
            statistics.observe("decoder.class_norm", y * y.shape[-1] ** 0.5)
        statistics.observe("decoder.masks", patches.pop() @ y.transpose(1, 2))

    handles = [
        decoder.patch_features.register_forward_hook(on_patches),
        decoder.class_features.register_forward_hook(on_classes),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
