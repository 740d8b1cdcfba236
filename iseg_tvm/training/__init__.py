"""Quantization-aware training: fine-tuning through the integer operators."""
