"""The quantized file against the float checkpoint."""

from __future__ import annotations

from pathlib import Path

from iseg_tvm.artifact import save_model
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.config import segmenter_preset
from iseg_tvm.models.segmenter import build_segmenter
from tests.helpers import random_quantized_model


def test_seg_small_is_3_8_times_smaller(tmp_path: Path) -> None:
    """Seg-S-Mask/16: every tensor is there (the artifact's schema), only its values are random."""
    config = segmenter_preset("seg_small_mask")
    checkpoint = save_checkpoint(build_segmenter(config), tmp_path / "checkpoint")
    floats = (checkpoint / "checkpoint.pth").stat().st_size
    integers = save_model(random_quantized_model(config), tmp_path / "model.safetensors")
    ratio = floats / integers.stat().st_size
    print(f"FP32 {floats} bytes, integer {integers.stat().st_size} bytes, ratio {ratio:.3f}")
    assert ratio >= 3.8
