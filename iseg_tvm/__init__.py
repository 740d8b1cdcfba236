"""iseg-tvm: integer-only Segmenter models, quantized in PyTorch and compiled with TVM."""

__version__ = "0.1.0"
