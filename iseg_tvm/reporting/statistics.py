"""What the report says of each tensor, added up over pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization.context import finite_parameters
from iseg_tvm.quantization.equivalence import equivalent, real_features, recorded
from iseg_tvm.quantization.grids import Grids, recover_grids
from iseg_tvm.reporting.trace import on_grids, trace_float, trace_integers

BINS = 48
Progress = Callable[[str, int, int], None]


@dataclass
class SiteStatistics:
    """One tensor of the model.

    Attributes
    ----------
    site : name, see `iseg_tvm.quantization.calibration`
    dtype : ``int8`` or ``int16``
    signal, noise, own_noise : sums of squares: of the float values, of the integer model's error,
        and of its error when its operator is given the float model's tensors
    values, saturated : how many values there were, and how many float values the grid cannot hold
    reach : largest share of the integer range in use, 0 to 1
    limit : histograms go from -limit to limit
    before, after : histograms of the float and of the integer model's values, (BINS,)
    """

    site: str
    dtype: str
    limit: float
    signal: float = 0.0
    noise: float = 0.0
    own_noise: float = 0.0
    values: int = 0
    saturated: int = 0
    reach: float = 0.0
    before: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    after: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    @property
    def snr(self) -> float:
        """Signal to noise in dB, all that came before included."""
        return decibels(self.signal, self.noise)

    @property
    def own_snr(self) -> float:
        """Signal to noise in dB of this operator alone."""
        return decibels(self.signal, self.own_noise)

    def add(self, real: Tensor, integers: Tensor, own: Tensor, scale: Tensor, zero: Tensor) -> None:
        """Add one picture: float values, integers, integers of the operator alone."""
        limits = torch.iinfo(integers.dtype)
        found = (integers.double() - zero) * scale
        self.signal += float(real.square().sum())
        self.noise += float((found - real).square().sum())
        self.own_noise += float(((own.double() - zero) * scale - real).square().sum())
        self.values += real.numel()
        steps = real / scale + zero
        self.saturated += int(((steps < limits.min - 0.5) | (steps > limits.max + 0.5)).sum())
        below, above = (int(v) for v in torch.aminmax(integers))
        self.reach = max(self.reach, min(below / limits.min, 1.0), above / limits.max)
        for counts, values in ((self.before, real), (self.after, found)):
            clipped = values.clamp(-self.limit, self.limit).float()
            counts += torch.histc(clipped, BINS, -self.limit, self.limit).numpy()


@dataclass(frozen=True)
class Picture:
    """A picture and its class maps, (H, W) uint8."""

    name: str
    image: np.ndarray
    exact: np.ndarray
    integer: np.ndarray

    @property
    def agreement(self) -> float:
        """Share of pixels with the same class."""
        return float((self.exact == self.integer).mean())


@dataclass(frozen=True)
class Findings:
    """All that the page shows.

    Attributes
    ----------
    sites : in the order of computation
    pictures : in the order given
    cosine : mean cosine of the encoder's features
    mean_iou : of the integer class maps, the float ones being the truth
    """

    sites: tuple[SiteStatistics, ...]
    pictures: tuple[Picture, ...]
    cosine: float
    mean_iou: float


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``; infinite without noise, not-a-number without signal."""
    if signal == 0:
        return math.nan
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf


def examine(
    checkpoint: Segmenter,
    model: QuantizedModel,
    pictures: Sequence[tuple[str, np.ndarray]],
    progress: Progress = lambda stage, done, total: None,
) -> Findings:
    """Run both models on pictures and compare every tensor.

    Parameters
    ----------
    checkpoint : Segmenter
    model : QuantizedModel
        Made from `checkpoint`.
    pictures : (name, uint8 (H, W, 3) of ``model.input_size``)
    progress : callable, optional
        Called with a stage, the pictures done and their number.

    Raises
    ------
    IsegError
        The models do not belong together.
    """
    if model.config != checkpoint.config:
        raise IsegError(
            "the integer model was made from another checkpoint's architecture",
            "name the checkpoint it was quantized from",
        )
    change = recorded(model)
    checkpoint = equivalent(checkpoint, change)
    grids = recover_grids(model, finite_parameters(checkpoint))
    center = change.centers.get("encoder.norm", np.zeros(1))
    sites: dict[str, SiteStatistics] = {}
    shown, cosines = [], []
    for done, (name, image) in enumerate(pictures):
        progress("examining", done, len(pictures))
        real, scores = trace_float(checkpoint, image)
        integers, class_map = trace_integers(model, image, {})
        own, _ = trace_integers(model, image, on_grids(real, grids, integers))
        for site in (s for s in integers if s in real and s in grids.scale):
            _add(sites, site, real[site], integers[site], own[site], grids)
        features = torch.from_numpy(real_features(model, integers["encoder.norm"].numpy()))
        exact = real["encoder.norm"].double() + torch.from_numpy(center)
        cosines.append(float(torch.cosine_similarity(features, exact).mean()))
        shown.append(Picture(name, image, _upsampled(model, scores), class_map))
    progress("examining", len(pictures), len(pictures))
    return Findings(tuple(sites.values()), tuple(shown), float(np.mean(cosines)), _mean_iou(shown))


def _add(
    sites: dict[str, SiteStatistics],
    site: str,
    real: Tensor,
    integers: Tensor,
    own: Tensor,
    grids: Grids,
) -> None:
    if site not in sites:
        kind = str(integers.dtype).removeprefix("torch.")
        limit = float(real.abs().max()) * 1.1 or 1.0
        sites[site] = SiteStatistics(site, kind, limit)
    scale = torch.from_numpy(np.asarray(grids.scale[site]))
    sites[site].add(real.double(), integers, own, scale, grids.zero_of(site))


def _upsampled(model: QuantizedModel, scores: np.ndarray) -> np.ndarray:
    """The float model's class map, by the nearest patch like the integer model's."""
    height, width = model.input_size
    side = model.config.encoder.patch_size
    grid = scores.argmax(axis=1).reshape(model.config.grid_for(height, width)).astype(np.uint8)
    return grid.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def _mean_iou(pictures: Sequence[Picture]) -> float:
    """Mean IoU of the integer maps against the float ones, over the classes that occur."""
    exact = np.concatenate([p.exact.ravel() for p in pictures])
    found = np.concatenate([p.integer.ravel() for p in pictures])
    values = []
    for index in np.union1d(exact, found):
        a, b = exact == index, found == index
        values.append((a & b).sum() / (a | b).sum())
    return float(np.mean(values))
