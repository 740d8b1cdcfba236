"""Accuracy of quantization on a real pretrained ViT-S/14, calibrated on one photograph.

Gates on the six photographs of earlier figures; ``benchmarks/accuracy.py`` measures the ten.
"""

from iseg_tvm.quantization import quantize
from tests.pretrained import (
    SIX,
    float_features,
    float_model,
    integer_features,
    photographs,
    score,
)

CALIBRATION = "astronaut"


def test_one_photograph_calibrates_a_pretrained_encoder() -> None:
    """1,025 tokens an image, six photographs that calibration did not see."""
    photos = photographs()
    quantized = quantize(float_model(), [photos[CALIBRATION]])
    images = [photos[name] for name in SIX]
    exact = [float_features(image) for image in images]
    result = score(integer_features(quantized, images), exact, starts=1)
    print(result, result.miou)
    assert result.cosine >= 0.995, result
    assert result.miou >= 0.96, result
