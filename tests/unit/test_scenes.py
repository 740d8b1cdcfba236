from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from demo import photographs
from demo.evaluate import confusion, float_segment, iou, mean_iou, photo_figures
from demo.model import PATCH, SIZE, demo_config, frequency_filters
from demo.photo import demo_photo
from demo.photographs import (
    CLASSES,
    CUTOUTS,
    IGNORE,
    LABELLED_PARTS,
    PALETTE,
    SPLITS,
    TEXTURES,
    cut,
    labelled,
    photograph,
)
from demo.scenes import photograph_part, scene
from demo.train import draw_batch, learning_rate, parse_stages, patch_shares
from iseg_tvm.errors import IsegError
from iseg_tvm.models.checkpoint import load_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.models.windows import window_scores

DEMO = Path(__file__).parents[2] / "demo"


def _boxes(split: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    tables = (TEXTURES[split], CUTOUTS[split], LABELLED_PARTS.get(split, ()))
    return [(entry.photo, entry.box) for entry in itertools.chain.from_iterable(tables)]


def test_splits_share_no_pixel() -> None:
    for photo, (x0, y0, x1, y1) in _boxes("train"):
        for other, (u0, v0, u1, v1) in _boxes("held_out"):
            disjoint = x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
            assert photo != other or disjoint, (photo, (x0, y0, x1, y1), (u0, v0, u1, v1))


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_lie_inside_their_photographs(split: str) -> None:
    for photo, (x0, y0, x1, y1) in _boxes(split):
        height, width = photograph(photo).shape[:2]
        assert 0 <= x0 < x1 <= width, photo
        assert 0 <= y0 < y1 <= height, photo


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_a_source_in_every_split(split: str) -> None:
    sources = {entry.label for entry in (*TEXTURES[split], *CUTOUTS[split])}
    assert sources == set(CLASSES)
    assert len(PALETTE) == len(set(PALETTE)) == len(CLASSES)


def test_a_photograph_is_seen_in_held_out_scenes_only() -> None:
    assert {photo for photo, _ in _boxes("held_out")} - {photo for photo, _ in _boxes("train")} == {
        "rocket"
    }


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [(64, 64), (48, 104)])
def test_scene_is_reproducible_and_well_formed(split: str, size: tuple[int, int]) -> None:
    for seed in range(6):
        image, labels = scene(split, seed, size)
        again, labels_again = scene(split, seed, size)
        assert image.shape == (*size, 3)
        assert labels.shape == size
        assert image.dtype == labels.dtype == np.uint8
        assert labels.max() < len(CLASSES)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(labels, labels_again)


def test_seeds_and_splits_give_different_scenes() -> None:
    pictures = {scene(split, seed, (32, 32))[0].tobytes() for split in SPLITS for seed in range(8)}
    assert len(pictures) == 16


@pytest.mark.parametrize("split", SPLITS)
def test_all_classes_occur_in_few_scenes(split: str) -> None:
    seen = set(np.unique([scene(split, seed, (64, 64))[1] for seed in range(30)]))
    assert seen == set(range(len(CLASSES)))


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="validation"):
        scene("validation", 0)


def test_cut_outs_fill_a_fair_share_of_their_box() -> None:
    for cutout in itertools.chain(*CUTOUTS.values()):
        picture, mask = cut(cutout)
        assert picture.size == mask.size
        assert 0.5 < np.mean(np.asarray(mask) > 127) < 0.95, cutout


def test_labelled_parts_name_known_classes() -> None:
    for part in LABELLED_PARTS["train"]:
        picture, classes = labelled(part)
        values = set(np.unique(np.asarray(classes)))
        assert picture.size == classes.size
        assert values <= {*range(len(CLASSES)), IGNORE}
        assert values - {IGNORE}


def test_photograph_part_is_reproducible() -> None:
    first, second = photograph_part(3, (40, 56)), photograph_part(3, (40, 56))
    assert first[0].shape == (40, 56, 3)
    assert first[1].shape == (40, 56)
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


def test_missing_package_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(photographs._FILES, "absent", ("no_such_package_here", "x.png"))
    with pytest.raises(IsegError, match="no_such_package_here"):
        photograph("absent")


def test_missing_file_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(photographs._FILES, "gone", ("skimage", "data/gone.png"))
    with pytest.raises(IsegError, match=r"gone\.png"):
        photograph("gone")


def test_confusion_ignores_unlabelled_pixels_and_iou_is_exact() -> None:
    truth = np.array([[0, 0, 1, IGNORE]], np.uint8)
    counts = confusion(np.array([[0, 1, 1, 5]], np.uint8), truth)
    assert counts.sum() == 3
    assert iou(counts)["sky"] == 0.5
    assert iou(counts)["plants"] == 0.5
    assert iou(counts)["coin"] is None
    assert mean_iou(counts) == 0.5


def test_patch_shares_are_areas_and_skip_unlabelled_pixels() -> None:
    labels = np.zeros((1, 8, 16), np.uint8)
    labels[0, :, 4:8] = 3
    labels[0, :2, 8:] = IGNORE
    shares = patch_shares(labels)[0]
    assert shares.shape == (len(CLASSES), 1, 2)
    assert shares[:, 0, 0].tolist() == [0.5, 0, 0, 0.5, 0, 0, 0, 0]
    assert shares[:, 0, 1].tolist() == [0.75, 0, 0, 0, 0, 0, 0, 0]


def test_whole_window_equals_the_models_own_forward() -> None:
    model = build_segmenter(demo_config(), seed=1)
    image, _ = scene("train", 0, (SIZE, SIZE))
    with torch.inference_mode():
        expected = model.forward_scores(model.normalize_uint8(image[None]))
        found = window_scores(model, image[None], (0, 0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_batches_keep_picture_and_labels_together() -> None:
    # Every pixel's colour tells its label, so a window cut in different places would show.
    labels = np.random.default_rng(0).integers(0, 2, (4, SIZE, SIZE), dtype=np.uint8)
    images = np.repeat((labels * 255)[..., None], 3, axis=3)
    cut_images, cut_labels, place = draw_batch(
        (images, labels), np.random.default_rng(1), batch=6, side=64
    )
    assert cut_images.shape == (6, 64, 64, 3)
    assert all(0 <= v <= (SIZE - 64) // 8 for v in place)
    np.testing.assert_array_equal(cut_images.mean(axis=3) > 127, cut_labels == 1)


def test_learning_rate_warms_up_and_ends_low() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == 0.2
    assert max(rates) == rates[5] == 1.0
    assert rates == [*rates[:5], *sorted(rates[5:], reverse=True)]
    assert rates[-1] < 0.02


def test_frequency_filters_whiten_patches() -> None:
    images = np.stack([scene("train", seed, (SIZE, SIZE))[0] for seed in range(2)])
    weights, biases = frequency_filters(images, 128)
    assert weights.shape == (128, 3, PATCH, PATCH)
    batch = torch.from_numpy(images / 127.5 - 1).float().permute(0, 3, 1, 2)
    found = torch.nn.functional.conv2d(batch, weights, biases, stride=PATCH)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(128), rtol=0, atol=1e-3)
    spread = found.std((0, 2, 3))
    assert spread.max() < 1.01
    assert spread[0] > 0.99  # mean brightness: far above the grain that is not amplified


def test_demo_photograph_has_coarse_labels() -> None:
    image, labels = demo_photo(256)
    assert image.shape == (256, 256, 3)
    assert labels.shape == (256, 256)
    assert {CLASSES[v] for v in np.unique(labels) if v != IGNORE} == {"fur", "plants"}


def test_shipped_checkpoint_is_the_one_that_was_measured() -> None:
    recorded = json.loads((DEMO / "figures.json").read_text(encoding="utf-8"))
    model = load_checkpoint(DEMO / "checkpoint")
    assert model.config == demo_config()
    found = photo_figures(float_segment(model))
    assert found["pixel_accuracy"] == pytest.approx(recorded["photo"]["pixel_accuracy"], abs=0.01)
    assert recorded["parameters"] == sum(p.numel() for p in model.parameters())


def test_stages_are_parsed() -> None:
    assert parse_stages("64:0.5,256:1") == [(64, 0.5), (256, 1.0)]


@pytest.mark.parametrize("text", ["64", "64:x", "64:0.9,128:0.5,256:1", "64:0.5", "60:1", "512:1"])
def test_wrong_stages_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_stages(text)
