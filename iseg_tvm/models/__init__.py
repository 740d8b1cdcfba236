"""The floating-point Segmenter: configurations, the PyTorch model, checkpoints.

Nothing is imported here, so that `iseg_tvm.models.config` stays free of torch and timm.
"""
