"""Configurations: presets, JSON and back, refusal of what cannot be built."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.models.config import (
    VIT_SIZES,
    DecoderConfig,
    EncoderConfig,
    SegmenterConfig,
    segmenter_preset,
)


def test_preset_of_the_paper() -> None:
    config = segmenter_preset("seg_tiny_mask")
    encoder = config.encoder
    assert encoder.name == "vit_tiny_patch16_384"
    assert (encoder.embed_dim, encoder.depth, encoder.num_heads) == (192, 12, 3)
    assert (config.decoder.name, config.decoder.num_layers) == ("mask_transformer", 2)
    assert (config.num_classes, config.grid_size, config.l2_norm) == (150, (32, 32), True)
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", VIT_SIZES)
def test_every_preset_has_heads_of_64_channels(size: str) -> None:
    mask = segmenter_preset(f"seg_{size}_mask", patch_size=32)
    assert mask.encoder.embed_dim == 64 * mask.encoder.num_heads == 64 * mask.decoder.num_heads
    assert segmenter_preset(f"seg_{size}_linear").decoder == DecoderConfig("linear")


def test_distilled_preset() -> None:
    encoder = segmenter_preset("seg_base_mask", distilled=True).encoder
    assert encoder.name == "deit_base_distilled_patch16_384"
    assert (encoder.num_prefix_tokens, encoder.mean[0], encoder.std[2]) == (2, 0.485, 0.225)


def test_grid_is_rounded_up() -> None:
    config = segmenter_preset("seg_small_mask")
    assert config.grid_for(500, 375) == (32, 24)
    assert config.grid_for(1, 16) == (1, 1)


@pytest.mark.parametrize(
    "config",
    [
        segmenter_preset("seg_large_mask", patch_size=32, image_size=(640, 480)),
        segmenter_preset("seg_tiny_linear", distilled=True, l2_norm=False, dataset="cityscapes"),
    ],
)
def test_json_round_trip(config: SegmenterConfig) -> None:
    back = SegmenterConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)


def test_defaults_may_be_absent() -> None:
    values = segmenter_preset("seg_tiny_mask").to_dict()
    for name in ("image_size", "l2_norm", "dataset"):
        del values[name]
    assert SegmenterConfig.from_dict(values) == segmenter_preset("seg_tiny_mask")


def changed(path: str, value: Any) -> dict[str, Any]:
    values = segmenter_preset("seg_tiny_mask").to_dict()
    *parents, name = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[name] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder.num_heads", 5, "5 heads do not divide 192"),
        ("encoder.patch_size", 0, "patch_size must be over 0"),
        ("encoder.patch_size", True, "patch_size must be int"),
        ("encoder.depth", "12", "depth must be int, found '12'"),
        ("encoder.normalization", "bgr", "unknown normalization 'bgr'"),
        ("encoder.dropout", 1.0, r"dropout must be in \[0, 1\)"),
        ("encoder.layer_norm_eps", float("nan"), "layer_norm_eps must be over 0"),
        ("encoder.window", 7, "model configuration, encoder: unknown field window"),
        ("encoder", [1], "expected named fields, found list"),
        ("decoder.name", "deeplab", "unknown decoder 'deeplab'"),
        ("decoder.num_heads", 0, "num_heads must be over 0"),
        ("decoder.num_heads", 7, "7 decoder heads do not divide"),
        ("num_classes", 0, "num_classes must be over 0"),
        ("image_size", [512, 500], "512x500 is no multiple of the patch size 16"),
        ("image_size", [0, 16], "0x16 is no multiple"),
        ("image_size", [512], "image_size must be two ints"),
        ("image_size", "large", "image_size must be two ints, found 'large'"),
        ("l2_norm", "yes", "l2_norm must be bool"),
        ("newer", 1, "unknown field newer"),
    ],
)
def test_what_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(IsegError, match=message):
        SegmenterConfig.from_dict(changed(path, value))


def test_missing_field_and_no_dictionary() -> None:
    values = segmenter_preset("seg_tiny_mask").to_dict()
    del values["encoder"]["patch_size"]
    with pytest.raises(IsegError, match="encoder: a field is missing .*patch_size"):
        SegmenterConfig.from_dict(values)
    with pytest.raises(IsegError, match="expected named fields"):
        SegmenterConfig.from_dict([])  # type: ignore[arg-type]


def test_linear_decoder_has_no_layers() -> None:
    with pytest.raises(IsegError, match="must be 0"):
        DecoderConfig("linear", num_layers=2, num_heads=3)


@pytest.mark.parametrize("name", ["seg_huge_mask", "tiny_mask", "seg_tiny", "seg_tiny_deeplab"])
def test_unknown_preset_lists_the_known(name: str) -> None:
    with pytest.raises(IsegError, match="unknown model") as caught:
        segmenter_preset(name)
    assert "seg_tiny_mask" in caught.value.hint


def test_configurations_cannot_change() -> None:
    config = EncoderConfig("x", 16, 64, 1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 2  # type: ignore[misc]


def test_configurations_need_neither_torch_nor_timm() -> None:
    code = (
        "import sys, iseg_tvm.models.config; "
        "print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
