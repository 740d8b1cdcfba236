"""Post-training quantization: a float Segmenter and a few photographs to an integer-only model."""

from iseg_tvm.quantization.calibration import Progress
from iseg_tvm.quantization.options import QuantizeOptions
from iseg_tvm.quantization.pipeline import quantize

__all__ = ["Progress", "QuantizeOptions", "quantize"]
