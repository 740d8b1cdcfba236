"""The quantization report: where a model's bits are lost, on the user's own pictures."""
