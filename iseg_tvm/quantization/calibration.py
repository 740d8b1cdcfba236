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
``B.fc1``                                  two groups: negative and positive activation inputs
``B.activation``                           activation outputs
``encoder.norm``, ``decoder.norm``         last LayerNorm of either part
``decoder.proj_dec``, ``decoder.proj_patch``, ``decoder.proj_classes``, ``decoder.masks``,
``decoder.head``                           outputs; masks before their norm, patches not normalised
``decoder.class_norm``                     class features, L2-normalised times ``sqrt(width)``
=========================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iseg_tvm.errors import IsegError
from iseg_tvm.models.decoders import LinearDecoder
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.observers import Histogram, Moments, signed_parts

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in total."""


@dataclass
class Statistics:
    """Observations by site.

    Attributes
    ----------
    sites : name -> histogram
    patch_norm_squares, patch_count : sum of squared L2 norms of the decoder's patch features, and
        how many there were
    """

    sites: dict[str, Histogram] = field(default_factory=dict)
    patch_norm_squares: float = 0.0
    patch_count: int = 0

    def observe(self, site: str, values: Tensor, groups: int = 1) -> None:
        """Add ``values`` to a site."""
        self.sites.setdefault(site, Histogram(groups)).update(values)

    def maximum(self, *sites: str) -> float:
        """Largest magnitude at any of the sites."""
        return max(float(self.sites[site].maximum.max()) for site in sites)


def calibrate(
    model: Segmenter, images: Sequence[np.ndarray], progress: Progress | None = None
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

    Raises
    ------
    IsegError
        An activation is not finite.
    """
    statistics = Statistics()
    with observing(model, statistics), _fused_attention(model), torch.no_grad():
        for done, image in enumerate(images, start=1):
            for view in views(image):
                model.forward_scores(model.normalize_uint8(np.array(view[None], order="C")))
            if progress is not None:
                progress("calibrating", done, len(images))
    for site, histogram in statistics.sites.items():
        if not np.isfinite(histogram.maximum).all():
            raise IsegError(
                f"activations of {site} are not finite on the calibration images",
                "the float model itself overflows on them: check the checkpoint",
            )
    return statistics


def views(image: np.ndarray) -> list[np.ndarray]:
    """The image, mirrored both ways, and with red and blue exchanged.

    One photograph alone reaches only part of most channels' ranges, and clipping what another
    photograph reaches costs far more than a coarser grid: its views widen them without new data.
    """
    return [image, image[:, ::-1], image[::-1], image[:, :, ::-1]]


@contextmanager
def _fused_attention(model: Segmenter) -> Iterator[None]:
    """Attention probabilities are not observed, so N x N matrices need not be stored."""
    before = {m: m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}
    model.set_fused_attention(True)
    try:
        yield
    finally:
        for module, value in before.items():
            module.fused_attn = value


Grid = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a site's values to a linear layer's real input and the integers that stand for it."""


class _MomentsBySite:
    """Observer of :func:`measure_moments`."""

    def __init__(self, grids: Mapping[str, Grid], second: bool) -> None:
        self.grids = grids
        self.moments = {site: Moments(second) for site in grids}

    def observe(self, site: str, values: Tensor, groups: int = 1) -> None:
        """Add ``values`` to a site, if it has a grid."""
        if site in self.grids:
            self.moments[site].update(*self.grids[site](values))


def measure_moments(
    model: Segmenter,
    images: Sequence[np.ndarray],
    grids: Mapping[str, Grid],
    progress: Progress | None = None,
    *,
    second: bool = True,
) -> dict[str, Moments]:
    """Moments of what linear layers read, real and rounded, in a second pass.

    Parameters
    ----------
    model, images, progress : as of :func:`calibrate`
    grids : the rounding at each site
    second : whether to keep second moments
    """
    observer = _MomentsBySite(grids, second)
    with _hooks(model, observer), _fused_attention(model), torch.no_grad():
        for done, image in enumerate(images, start=1):
            for view in (image, image[:, ::-1]):
                model.forward_scores(model.normalize_uint8(np.array(view[None], order="C")))
            if progress is not None:
                progress("measuring layer inputs", done, len(images))
    return observer.moments


@contextmanager
def observing(model: Segmenter, statistics: Statistics) -> Iterator[None]:
    """Let ``statistics.observe`` see every site (module docstring) of each forward pass."""
    with _hooks(model, statistics), _mask_hooks(model, statistics):
        yield


@contextmanager
def _hooks(model: Segmenter, statistics: Statistics | _MomentsBySite) -> Iterator[None]:
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
        handles.append(
            block.mlp.act.register_forward_pre_hook(
                lambda _m, a: statistics.observe(f"{name}.fc1", signed_parts(a[0]), 2)
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
