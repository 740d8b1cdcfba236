"""How to quantize: the options, checked, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from iseg_tvm.errors import IsegError
from iseg_tvm.quantization.observers import OBSERVERS

ACTIVATIONS = ("gelu", "shiftgelu")
POLYNOMIALS = ("quadratic", "linear")
ROUNDINGS = ("feedback", "nearest")


@dataclass(frozen=True)
class QuantizeOptions:
    """Options of :func:`iseg_tvm.quantization.quantize`.

    Parameters
    ----------
    observer : {"minmax", "percentile", "mse"}
        How clipping thresholds of int8 activations follow from the calibration images. The maximum
        is best on pretrained encoders: their few huge activations carry meaning.
    percentile : float
        Share of the values inside the grid, in percent, for ``observer="percentile"``.
    activation : {"gelu", "shiftgelu"}
        Table of the exact GELU, or of lambda-ShiftGELU.
    polynomial : {"quadratic", "linear"}
        The attention's shift exponential; ``linear`` is I-ViT's.
    rounding : {"feedback", "nearest"}
        Of weights: so that the layer's output on the calibration images moves least (GPTQ), or
        each weight by itself.
    bias_correction : bool
        Biases take up what rounding inputs and weights adds on average.
    equalization : float
        How far LayerNorm's and the attention's outputs have a scale of their own a channel, at the
        cost of the next weights: 0 is one scale a tensor, 1 one a channel.
    lambda_search : bool
        Clip the activation function's inputs at the lambda that leaves the least error after it, a
        layer at a time; otherwise nothing that calibration saw is clipped.
    activation_zero_point : bool
        Its input grid need not be symmetric: the layer before adds the zero point with its bias.
    activation_groups : bool
        Hidden units are sorted by range, and every 64 of them have a table and grids of their own.
    feature_scales : bool
        The last LayerNorm of encoder and decoder has one scale a channel instead of one in all.
    centering : bool
        Channels of LayerNorm's and the attention's outputs, keys and values are moved around zero
        first: their grids become finer.
    input_size : tuple of int, optional
        Height and width of the images that the model will be run on; the calibration images' size
        by default, and they must have it.
    """

    observer: str = "minmax"
    percentile: float = 99.99
    activation: str = "gelu"
    polynomial: str = "quadratic"
    rounding: str = "feedback"
    bias_correction: bool = True
    equalization: float = 0.75
    lambda_search: bool = True
    activation_zero_point: bool = True
    activation_groups: bool = True
    feature_scales: bool = True
    centering: bool = True
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name, known in (
            ("observer", OBSERVERS),
            ("activation", ACTIVATIONS),
            ("polynomial", POLYNOMIALS),
            ("rounding", ROUNDINGS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise IsegError(f"unknown {name} {value!r}", f"known: {', '.join(known)}")
        if not 50 < self.percentile <= 100:
            raise IsegError(f"percentile {self.percentile} is outside (50, 100]")
        if not 0 <= self.equalization <= 1:
            raise IsegError(f"equalization {self.equalization} is outside [0, 1]")
