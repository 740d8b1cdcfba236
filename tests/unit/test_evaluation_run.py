"""The loop: exact counts from an engine whose answers are known, and resuming."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import Dataset, open_dataset
from iseg_tvm.evaluation.run import Result, evaluate
from iseg_tvm.evaluation.windows import Settings

CLASSES = ("a", "b", "c")
SIZE = (5, 6)
SETTINGS = Settings("ownership", (4, 4), (3, 3))


class RedEngine:
    """Its class map is the red channel; it can be made to stop."""

    kind, path, classes, window = "model", "red", CLASSES, (4, 4)
    upsampling = "nearest"

    def __init__(self, checksum: str = "1", calls: int = 1000) -> None:
        self.checksum, self.calls = checksum, calls

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """See the class."""
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return image[:, :, 0]


@pytest.fixture
def known(tmp_path: Path) -> tuple[Dataset, np.ndarray]:
    """A data set of 7 samples, and the confusion matrix of `RedEngine` on it."""
    rng, counts = np.random.default_rng(3), np.zeros((3, 3), np.int64)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for index in range(7):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[:, :, 0] = rng.integers(0, 3, SIZE)
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
        for truth, found in zip(mask.flat, image[:, :, 0].flat, strict=True):
            if truth != 255:
                counts[truth, found] += 1
        Image.fromarray(image).save(tmp_path / f"data/images/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/{index}.png")
    return open_dataset("folder", tmp_path / "data", classes=CLASSES), counts


def test_counts_are_exact(known: tuple[Dataset, np.ndarray]) -> None:
    dataset, counts = known
    seen: list[tuple[str, int, int]] = []
    result = evaluate(RedEngine(), dataset, SETTINGS, progress=lambda *step: seen.append(step))
    assert (result.confusion == counts).all()
    assert result.images == 7
    assert result.skipped == ()
    assert seen == [("evaluating", done, 7) for done in range(8)]
    assert result.metrics.pixel_accuracy == np.trace(counts) / counts.sum()


def test_limit_takes_the_first_samples(known: tuple[Dataset, np.ndarray]) -> None:
    dataset, _ = known
    some = evaluate(RedEngine(), dataset, SETTINGS, limit=2)
    assert some.images == 2
    assert some.confusion.sum() < evaluate(RedEngine(), dataset, SETTINGS).confusion.sum()
    assert evaluate(RedEngine(), dataset, SETTINGS, limit=100).images == 7


def test_unreadable_samples_are_skipped_and_listed(known: tuple[Dataset, np.ndarray]) -> None:
    dataset, _ = known
    dataset.samples[2].mask.unlink()
    dataset.samples[4].image.write_bytes(b"no picture")
    result = evaluate(RedEngine(), dataset, SETTINGS)
    assert result.images == 5
    assert [name for name, _ in result.skipped] == ["2", "4"]
    assert "does not exist" in result.skipped[0][1]


def test_nothing_readable_is_an_error(known: tuple[Dataset, np.ndarray]) -> None:
    dataset, _ = known
    for sample in dataset.samples:
        sample.mask.unlink()
    with pytest.raises(IsegError, match="none of the 7 samples could be read"):
        evaluate(RedEngine(), dataset, SETTINGS)


@pytest.mark.parametrize("calls", [0, 1, 9, 27])  # 4 windows a sample
@pytest.mark.parametrize("save_every", [1, 3])
def test_an_interrupted_run_is_continued(
    known: tuple[Dataset, np.ndarray], tmp_path: Path, calls: int, save_every: int
) -> None:
    dataset, counts = known
    dataset.samples[0].mask.write_bytes(b"no picture")
    dataset = open_dataset("folder", dataset.root, classes=CLASSES)
    expected = evaluate(RedEngine(), dataset, SETTINGS)
    state = tmp_path / "state.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(RedEngine(calls=min(calls, 23)), dataset, SETTINGS, state_file=state)
    done = json.loads(state.read_text())["done"]
    assert done == 1 + min(calls, 23) // 4
    engine = RedEngine()
    result = evaluate(engine, dataset, SETTINGS, state_file=state, save_every=save_every)
    assert 1000 - engine.calls == 4 * (7 - done)
    assert (result.confusion == expected.confusion).all()
    assert result.skipped == expected.skipped
    assert result.confusion.sum() < counts.sum()


class Killed(BaseException):
    """Ends a run without a chance to save, as a signal would."""


def test_a_killed_run_loses_only_what_was_not_saved(
    known: tuple[Dataset, np.ndarray], tmp_path: Path
) -> None:
    dataset, counts = known
    state = tmp_path / "state.json"

    def kill(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        evaluate(RedEngine(), dataset, SETTINGS, state_file=state, save_every=2, progress=kill)
    assert json.loads(state.read_text())["done"] == 4
    result = evaluate(RedEngine(), dataset, SETTINGS, state_file=state)
    assert (result.confusion == counts).all()
    assert result.images == 7


def test_a_finished_run_is_not_run_again_and_a_higher_limit_continues(
    known: tuple[Dataset, np.ndarray], tmp_path: Path
) -> None:
    dataset, counts = known
    state = tmp_path / "state.json"
    first = evaluate(RedEngine(), dataset, SETTINGS, limit=3, state_file=state)
    again = evaluate(RedEngine(calls=0), dataset, SETTINGS, limit=3, state_file=state)
    assert (first.confusion == again.confusion).all()
    whole = evaluate(RedEngine(), dataset, SETTINGS, state_file=state)
    assert (whole.confusion == counts).all()
    with pytest.raises(IsegError, match="has 7 samples already, and 3 are asked for"):
        evaluate(RedEngine(), dataset, SETTINGS, limit=3, state_file=state)


def test_a_state_of_something_else_is_refused(
    known: tuple[Dataset, np.ndarray], tmp_path: Path
) -> None:
    dataset, _ = known
    state = tmp_path / "state.json"

    def run(engine: RedEngine, data: Dataset, settings: Settings) -> Result:
        return evaluate(engine, data, settings, limit=2, state_file=state)

    run(RedEngine(), dataset, SETTINGS)
    before = state.read_bytes()
    with pytest.raises(IsegError, match="belongs to another model"):
        run(RedEngine(checksum="2"), dataset, SETTINGS)
    with pytest.raises(IsegError, match="belongs to another protocol or window"):
        run(RedEngine(), dataset, Settings("ownership", (4, 4), (2, 3)))
    (dataset.root / "images/0.png").rename(dataset.root / "images/00.png")
    other = open_dataset("folder", dataset.root, classes=CLASSES)
    with pytest.raises(IsegError, match="belongs to another data set"):
        run(RedEngine(), other, SETTINGS)
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no state"),
        ("[]", "is no state"),
        ('{"format": "iseg-tvm evaluation state", "version": 9}', "has version 9"),
        ('{"format": "iseg-tvm evaluation state", "version": 1}', "is damaged"),
    ],
)
def test_damaged_states_are_refused(
    known: tuple[Dataset, np.ndarray], tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(IsegError, match=reason):
        evaluate(RedEngine(), known[0], SETTINGS, state_file=tmp_path / "state.json")


@pytest.mark.parametrize(
    "change", [{"done": -1}, {"confusion": [[0]]}, {"confusion": [[-1, 0, 0]] * 3}]
)
def test_impossible_states_are_refused(
    known: tuple[Dataset, np.ndarray], tmp_path: Path, change: dict[str, object]
) -> None:
    state = tmp_path / "state.json"
    evaluate(RedEngine(), known[0], SETTINGS, state_file=state)
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(IsegError, match="is damaged"):
        evaluate(RedEngine(), known[0], SETTINGS, state_file=state)


def test_json_values(known: tuple[Dataset, np.ndarray]) -> None:
    result = evaluate(RedEngine(), known[0], SETTINGS)
    values = json.loads(json.dumps(result.to_dict(with_confusion=True), allow_nan=False))
    assert values["confusion"] == result.confusion.tolist()
    assert values["model"] == "red"
    assert values["dataset"] == "folder"
    assert values["window"] == [4, 4]
    assert values["classes"][1]["name"] == "b"
    assert values["classes"][1]["iou"] == result.metrics.iou[1]
    assert "confusion" not in result.to_dict(with_confusion=False)
