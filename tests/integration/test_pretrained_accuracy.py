"""Accuracy of quantization on a real pretrained ViT-S/14, calibrated on one photograph.

``benchmarks/accuracy.py`` measures more. The wanted mean IoU is 0.985; the gate leaves room for
what another machine's float arithmetic changes in a quantized model (docs/quantization.md).
"""

from iseg_tvm.quantization import quantize
from tests.pretrained import (
    float_features,
    float_model,
    integer_features,
    photographs,
    score,
    split,
)


def test_one_photograph_calibrates_a_pretrained_encoder() -> None:
    """1,025 tokens an image, ten photographs that calibration did not see."""
    photos = photographs()
    calibration, held_out = split()
    quantized = quantize(float_model(), [photos[calibration[0]]])
    images = [photos[name] for name in held_out]
    exact = [float_features(image) for image in images]
    result = score(integer_features(quantized, images), exact)
    print(result, result.miou)
    assert result.cosine >= 0.998, result
    assert result.miou >= 0.98, result
