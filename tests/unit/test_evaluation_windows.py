"""Geometry of the sliding windows, and both ways to merge them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation import resize, windows
from iseg_tvm.evaluation.windows import Settings, predict

CLASSES = ("a", "b", "c")


class RedEngine:
    """Its class map is the red channel."""

    kind, path, classes, checksum = "model", "red", CLASSES, "0"
    upsampling = "nearest"

    def __init__(self, window: tuple[int, int]) -> None:
        self.window = window
        self.calls: list[np.ndarray] = []

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """See the class."""
        assert image.shape == (*self.window, 3)
        self.calls.append(image)
        return image[:, :, 0]


class OrderEngine(RedEngine):
    """Its class map is the number of the window, counted from 0."""

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """See the class."""
        return np.full_like(super().class_map(image), len(self.calls) - 1)


class ScoringEngine(RedEngine):
    """Its scores are the channels, weighted by the place in the window."""

    kind = "checkpoint"

    def scores(self, image: np.ndarray) -> np.ndarray:
        """See the class."""
        height, width = self.window
        ramp = np.arange(height * width, dtype=np.float32).reshape(height, width, 1)
        return image * ramp


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(7, 5), (20, 3), (11, 40), (1, 1)])
def test_resizing_is_that_of_pytorch(size: tuple[int, int]) -> None:
    image = noise(11, 8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(tensor, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    resized = resize.resize_image(image, size)
    assert resized.shape == (*size, 3)
    assert np.abs(resized - expected).max() <= 0.5 + 1e-3


def test_best_class_of_resized_scores_is_that_of_pytorch() -> None:
    scores = np.random.default_rng(2).normal(size=(9, 13, 6)).astype(np.float32)
    size = (150, 37)  # more than one strip
    tensor = torch.from_numpy(scores).permute(2, 0, 1)[None]
    expected = functional.interpolate(tensor, size, mode="bilinear")[0].argmax(0).numpy()
    assert np.mean(resize.best_class(scores, size) == expected) > 0.999
    assert (resize.best_class(scores, (9, 13)) == scores.argmax(2)).all()


@pytest.mark.parametrize(
    ("size", "short_side", "max_ratio", "expected"),
    [
        ((300, 400), 512, 4, (512, 683)),
        ((512, 683), 512, 4, (512, 683)),
        ((1024, 2048), 1024, 2, (1024, 2048)),
        ((100, 1000), 512, 4, (205, 2048)),  # the longer side is the limit
        ((1, 3000), 512, 4, (1, 2048)),
    ],
)
def test_rescaled_size(
    size: tuple[int, int], short_side: int, max_ratio: int, expected: tuple[int, int]
) -> None:
    assert windows.rescaled_size(size, short_side, max_ratio) == expected


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [
        ((512, 683), (512, 512), (512, 683)),
        ((205, 2048), (512, 512), (512, 5115)),  # the official code truncates too
        ((2048, 205), (512, 512), (5115, 512)),
        ((1, 1), (16, 16), (16, 16)),
        ((10, 10), (20, 30), (30, 30)),
        ((40, 10), (20, 30), (120, 30)),
        ((10, 400), (20, 30), (20, 800)),
    ],
)
def test_enlarged_size(
    size: tuple[int, int], window: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert windows.enlarged_size(size, window) == expected


def test_window_starts_are_the_official_ones() -> None:
    assert windows.window_starts(512, 512, 480) == [0]
    assert windows.window_starts(683, 512, 480) == [0, 171]
    assert windows.window_starts(992, 512, 480) == [0, 480]
    assert windows.window_starts(2048, 768, 512) == [0, 512, 1024, 1280]


@given(st.integers(1, 12), st.integers(0, 40), st.data())
def test_every_pixel_is_owned_by_the_nearest_centre(
    window: int, more: int, data: st.DataObject
) -> None:
    length = window + more
    starts = windows.window_starts(length, window, data.draw(st.integers(1, window)))
    owner = [
        index
        for index, (begin, end) in enumerate(windows.owned_ranges(starts, length, window))
        for _ in range(begin, end)
    ]
    twice = [[abs(2 * p + 1 - (2 * start + window)) for start in starts] for p in range(length)]
    assert owner == [distances.index(min(distances)) for distances in twice]


def test_ownership_takes_each_pixel_from_one_window() -> None:
    engine = OrderEngine((4, 4))
    settings = Settings("ownership", (4, 4), (2, 2))
    found = predict(engine, Image.fromarray(noise(4, 7)), settings)
    # windows start at 0, 2, 3: centres 2, 4, 5; pixel centres 0.5, ..., 6.5; 4.5 is a tie
    assert found.tolist() == [[0, 0, 0, 1, 1, 2, 2]] * 4


def test_ownership_puts_windows_back_in_place() -> None:
    pixels = noise(9, 14)
    found = predict(
        RedEngine((4, 6)), Image.fromarray(pixels), Settings("ownership", (4, 6), (3, 5))
    )
    assert (found == pixels[:, :, 0]).all()


def test_average_is_the_mean_of_overlapping_scores() -> None:
    pixels, engine = noise(6, 9), ScoringEngine((4, 5))
    total, count = np.zeros((6, 9, 3)), np.zeros((6, 9, 1))
    for top in (0, 2):
        for left in (0, 3, 4):
            part = np.s_[top : top + 4, left : left + 5]
            total[part] += engine.scores(pixels[part])
            count[part] += 1
    found = predict(engine, Image.fromarray(pixels), Settings("average", (4, 5), (2, 3)))
    assert (found == (total / count).argmax(2)).all()


def test_the_map_has_the_size_of_the_photo() -> None:
    photo = Image.new("RGB", (37, 21), (2, 0, 0))
    settings = Settings("ownership", (8, 8), (8, 8), short_side=8, max_ratio=4)
    engine = RedEngine((8, 8))
    found = predict(engine, photo, settings)
    assert found.shape == (21, 37)
    assert (found == 2).all()
    assert len(engine.calls) == 2  # 8 x 14


@pytest.mark.parametrize("size", [(1, 1), (60, 1), (1, 60)])
def test_photos_of_one_pixel_or_line(size: tuple[int, int]) -> None:
    settings = Settings("ownership", (8, 8), (5, 5), short_side=8, max_ratio=4)
    found = predict(RedEngine((8, 8)), Image.new("RGB", size, (2, 0, 0)), settings)
    assert found.shape == size[::-1]
    assert (found == 2).all()


def test_whole_image_is_one_window() -> None:
    engine = RedEngine((8, 8))
    found = predict(
        engine, Image.new("RGB", (50, 3), (1, 0, 0)), Settings("ownership", (8, 8), None)
    )
    assert len(engine.calls) == 1
    assert found.shape == (3, 50)
    assert (found == 1).all()


def test_average_needs_scores() -> None:
    with pytest.raises(IsegError, match="needs scores"):
        predict(RedEngine((4, 4)), Image.new("RGB", (4, 4)), Settings("average", (4, 4), (4, 4)))


def test_gaps_between_windows_are_refused() -> None:
    with pytest.raises(IsegError, match="stride 4 5 leaves gaps between windows of 4 4"):
        Settings("ownership", (4, 4), (4, 5))
