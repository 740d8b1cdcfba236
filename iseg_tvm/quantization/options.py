"""How to quantize: the options, checked, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from iseg_tvm.errors import IsegError
from iseg_tvm.quantization.observers import OBSERVERS

ACTIVATIONS = ("gelu", "shiftgelu")
POLYNOMIALS = ("quadratic", "linear")


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
    input_size : tuple of int, optional
        Height and width of the images that the model will be run on; the calibration images' size
        by default, and they must have it.
    """

    observer: str = "minmax"
    percentile: float = 99.99
    activation: str = "gelu"
    polynomial: str = "quadratic"
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name, known in (
            ("observer", OBSERVERS),
            ("activation", ACTIVATIONS),
            ("polynomial", POLYNOMIALS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise IsegError(f"unknown {name} {value!r}", f"known: {', '.join(known)}")
        if not 50 < self.percentile <= 100:
            raise IsegError(f"percentile {self.percentile} is outside (50, 100]")
