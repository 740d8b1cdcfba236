"""How to fine-tune: the options, checked, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from iseg_tvm.errors import IsegError

BITS = range(2, 9)


@dataclass(frozen=True)
class TrainOptions:
    """Options of quantization-aware training.

    Parameters
    ----------
    steps : int
        Optimizer steps.
    rate : float
        Peak learning rate of weights, in the checkpoint's own units; scales learn faster.
    batch : int
        Windows a step.
    window : tuple of int
        Height and width of a window, in pixels.
    zoom : float
        Pictures are cropped to between 1 and 1 / zoom of what fits.
    distill : float
        Share of the loss, 0 to 1, that asks for the float model's scores instead of the labels.
    sharpness : float
        Scores are multiplied by it before the softmax: what the float model was trained with.
    weight_bits : int
        Bits of the weights inside the blocks, 2 to 8; they are stored as int8 in any case.
    seed : int
        Of everything random.
    save_every : int
        Steps between two writes of the state.
    """

    steps: int
    rate: float = 1e-4
    batch: int = 8
    window: tuple[int, int] = (128, 128)
    zoom: float = 1.0
    distill: float = 0.5
    sharpness: float = 1.0
    weight_bits: int = 8
    seed: int = 0
    save_every: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        checks = (
            (self.steps >= 0, f"--steps {self.steps} is negative"),
            (0 < self.rate <= 1, f"--lr {self.rate} is outside (0, 1]"),
            (1 <= self.zoom <= 16, f"--zoom {self.zoom} is outside [1, 16]"),
            (0 <= self.distill <= 1, f"--distill {self.distill} is outside [0, 1]"),
            (0 < self.sharpness <= 1000, f"--sharpness {self.sharpness} is outside (0, 1000]"),
            (self.weight_bits in BITS, f"--weight-bits {self.weight_bits} is outside [2, 8]"),
            (self.seed >= 0, f"--seed {self.seed} is negative"),
        )
        for good, message in checks:
            if not good:
                raise IsegError(message, "choose a value in range")

    @property
    def levels(self) -> int:
        """Largest magnitude of a weight's integer inside the blocks."""
        return int(2 ** (self.weight_bits - 1) - 1)
