"""The two models whose accuracy is measured."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.accuracy_cases import Case
from benchmarks.models import ROOT
from benchmarks.paper_mode import paper_mode, round_weights
from demo.evaluate import SIZE, float_segment, held_out_figures, scene_figures
from demo.scenes import scene
from iseg_tvm.build import compile_bundle
from iseg_tvm.models.checkpoint import load_checkpoint
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization import QuantizeOptions, quantize
from iseg_tvm.runtime import load
from iseg_tvm.targets import load_target
from tests import pretrained


class Subject(Protocol):
    """A model, its calibration images and its score.

    ``many`` are the numbers of calibration images tried beside one.
    """

    many: tuple[int, ...]

    def names(self, case: Case) -> list[str]:
        """Names of a case's calibration images."""
        ...

    def float_values(self) -> dict[str, float]:
        """Figures of the float model, if they are not 1 by definition."""
        ...

    def measure(self, case: Case) -> dict[str, Any]:
        """Figures of a case."""
        ...


def emulated(model: Segmenter, images: Sequence[np.ndarray], kind: str) -> Segmenter:
    """Float model that emulates ``paper``, ``weights`` or ``bfloat16``."""
    if kind == "paper":
        return paper_mode(model, images)
    changed = copy.deepcopy(model)
    if kind == "weights":
        round_weights(changed)
    return changed


class Pretrained:
    """ViT-S/14 with pretrained weights; fidelity of its features at 1,025 tokens."""

    many: tuple[int, ...] = (8,)

    def __init__(self) -> None:
        self.photos = pretrained.photographs()
        self.calibration, self.held_out = pretrained.split()

    def names(self, case: Case) -> list[str]:
        """See `Subject`."""
        return self.calibration[case.first : case.first + case.images]

    def float_values(self) -> dict[str, float]:
        """See `Subject`."""
        return {}

    def measure(self, case: Case) -> dict[str, Any]:
        """See `Subject`."""
        images = [self.photos[name] for name in self.names(case)]
        first = case.name == "default, one image"
        tested = sorted({*self.held_out, *(pretrained.SIX if first else ())})
        found = dict(zip(tested, self._features(case, images, tested), strict=True))
        values = self._score(found, self.held_out)
        if first:
            six = self._score(found, pretrained.SIX, starts=1)
            values |= {"miou_six": six["miou"], "miou_six_range": six["miou_range"]}
        return values

    def _score(
        self, found: dict[str, np.ndarray], names: Sequence[str], starts: int = pretrained.STARTS
    ) -> dict[str, Any]:
        pair = [found[name] for name in names], [_exact(name) for name in names]
        plain, standardized = (
            pretrained.score(*pair, starts, standardized=wanted) for wanted in (False, True)
        )
        return {
            "cosine": round(plain.cosine, 6),
            "miou": round(plain.miou, 4),
            "miou_range": [min(plain.mious), max(plain.mious)],
            "miou_standardized": round(standardized.miou, 4),
            "miou_standardized_range": [min(standardized.mious), max(standardized.mious)],
        }

    def _features(
        self, case: Case, images: list[np.ndarray], tested: Sequence[str]
    ) -> list[np.ndarray]:
        model, photos = pretrained.float_model(), [self.photos[name] for name in tested]
        if case.emulation is None:
            quantized = quantize(model, images, QuantizeOptions(**case.options))
            return pretrained.integer_features(quantized, photos)
        changed = emulated(model, images, case.emulation)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.emulation == "bfloat16"):
            return [pretrained.float_features(photo, changed) for photo in photos]


@cache
def _exact(name: str) -> np.ndarray:
    return pretrained.float_features(pretrained.photographs()[name])


class Demo:
    """The demo model; mean IoU on its held-out scenes."""

    many: tuple[int, ...] = (8, 32)

    def __init__(self) -> None:
        self.model = load_checkpoint(ROOT / "demo" / "checkpoint").eval()

    def names(self, case: Case) -> list[str]:
        """See `Subject`."""
        # Scene 1000016 is demo/calibration.png; no scene from 1,000,000 on was trained on.
        return [f"scene {1_000_016 + case.first + i}" for i in range(case.images)]

    def float_values(self) -> dict[str, float]:
        """See `Subject`."""
        return {"miou": held_out_figures(self.model)["miou_nearest"]}

    def measure(self, case: Case) -> dict[str, Any]:
        """See `Subject`."""
        images = [scene("train", int(name.split()[1]), SIZE)[0] for name in self.names(case)]
        if case.emulation is None:
            quantized = quantize(self.model, images, QuantizeOptions(**case.options))
            with tempfile.TemporaryDirectory() as folder:
                bundle = compile_bundle(quantized, load_target("native"), Path(folder) / "bundle")
                figures = scene_figures(load(bundle.path).run)
        else:
            changed = emulated(self.model, images, case.emulation)
            with torch.autocast("cpu", torch.bfloat16, enabled=case.emulation == "bfloat16"):
                figures = scene_figures(float_segment(changed))
        return {"miou": figures["miou_nearest"]}


SUBJECTS: dict[str, type[Demo] | type[Pretrained]] = {"demo": Demo, "pretrained": Pretrained}
