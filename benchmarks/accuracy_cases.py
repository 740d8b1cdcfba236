"""What the accuracy benchmark measures: named choices of calibration images and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MIN_MAX = {
    "rounding": "nearest",
    "bias_correction": False,
    "equalization": 0.0,
    "lambda_search": False,
    "activation_zero_point": False,
    "activation_groups": False,
    "centering": False,
    "feature_scales": False,
}
"""Everything off: one min-max scale a tensor (a head for q, k and v), weights to nearest."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name : unique
    group : ``reference``, ``ablation``, ``calibration`` or ``spread``
    first, images : which calibration images: ``images`` of them, from the ``first`` on
    options : changes to the default ``QuantizeOptions``
    emulation : instead of an integer model, a float one: ``paper``, ``weights`` or ``bfloat16``
    """

    name: str
    group: str
    first: int = 0
    images: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    emulation: str | None = None


SPREAD = 10
"""How many different single calibration images are tried."""

_REFERENCES = [
    Case("bfloat16 weights and activations (float emulation)", "reference", emulation="bfloat16"),
    Case("int8 weights to nearest, the rest float (emulation)", "reference", emulation="weights"),
    Case("paper-faithful 8-bit mode (float emulation)", "reference", emulation="paper"),
]
_ABLATIONS = [
    Case("default, one image", "ablation"),
    Case("min-max only: every option off", "ablation", options=MIN_MAX),
    Case("weights rounded to nearest", "ablation", options={"rounding": "nearest"}),
    Case("no bias correction", "ablation", options={"bias_correction": False}),
    Case("equalization 0", "ablation", options={"equalization": 0.0}),
    Case("equalization 1", "ablation", options={"equalization": 1.0}),
    Case("no lambda search", "ablation", options={"lambda_search": False}),
    Case("symmetric activation inputs", "ablation", options={"activation_zero_point": False}),
    Case("one activation table a block", "ablation", options={"activation_groups": False}),
    Case("channels not centered", "ablation", options={"centering": False}),
    Case("one scale for all features", "ablation", options={"feature_scales": False}),
    Case("ShiftGELU table", "ablation", options={"activation": "shiftgelu"}),
    Case("linear shift exponential", "ablation", options={"polynomial": "linear"}),
    Case("observer mse", "ablation", options={"observer": "mse"}),
    Case("observer percentile 99.99", "ablation", options={"observer": "percentile"}),
]


def cases(many: tuple[int, ...]) -> list[Case]:
    """All rows; ``many`` are the larger numbers of calibration images.

    The most telling come first, so that an interrupted run is of use.
    """
    calibration = [Case(f"default, {n} images", "calibration", images=n) for n in many]
    spread = [Case(f"default, image {i + 1} alone", "spread", first=i) for i in range(SPREAD)]
    # The first image alone is the default case.
    return [_ABLATIONS[0], *calibration, *_REFERENCES, *_ABLATIONS[1:], *spread[1:]]
