"""Accuracy of quantization on a real pretrained ViT-S/14, calibrated on one photograph."""

from iseg_tvm.quantization import quantize
from tests.pretrained import float_features, float_model, integer_features, photographs, score

CALIBRATION = "astronaut"


def test_one_photograph_calibrates_a_pretrained_encoder() -> None:
    """1,025 tokens an image, six photographs that calibration did not see."""
    photos = photographs()
    quantized = quantize(float_model(), [photos.pop(CALIBRATION)])
    images = list(photos.values())
    result = score(integer_features(quantized, images), [float_features(i) for i in images])
    print(result, result.miou)
    assert result.cosine >= 0.995, result
    # Weights rounded to int8, nothing else, score 0.984 under this labelling.
    assert result.miou >= 0.96, result
