"""Every layout, with the label mapping that its official preparation implies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import UnreadableFileError, open_dataset, read_sample
from iseg_tvm.evaluation.metrics import IGNORE

ADE = [""] * 150
CITY = [""] * 19


def put_image(path: Path, size: tuple[int, int] = (2, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


def put_mask(path: Path, values: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def put_ade(root: Path, stem: str, values: list[list[int]]) -> None:
    put_image(root / "images/validation" / f"{stem}.jpg")
    put_mask(root / "annotations/validation" / f"{stem}.png", values)


@pytest.mark.parametrize("nested", ["", "ADEChallengeData2016", "ade20k/ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, nested: str) -> None:
    put_ade(tmp_path / nested, "ADE_val_2", [[0, 1, 2], [150, 255, 3]])
    put_ade(tmp_path / nested, "ADE_val_1", [[1, 1, 1], [1, 1, 1]])
    dataset = open_dataset("ade20k", tmp_path, classes=ADE)
    assert [s.name for s in dataset.samples] == ["ADE_val_1", "ADE_val_2"]
    assert dataset.classes[:2] == ("wall", "building")
    photo, target = read_sample(dataset.samples[1])
    assert photo.size == (3, 2)
    assert target.tolist() == [[IGNORE, 0, 1], [149, IGNORE, 2]]


def test_ade20k_training_split(tmp_path: Path) -> None:
    put_image(tmp_path / "images/training/a.jpg")
    put_mask(tmp_path / "annotations/training/a.png", [[0, 1, 2], [3, 4, 5]])
    dataset = open_dataset("ade20k", tmp_path, split="train", classes=ADE)
    assert [s.name for s in dataset.samples] == ["a"]


def test_cityscapes_train_ids_and_label_ids(tmp_path: Path) -> None:
    for name in ("ulm/ulm_0_1", "bonn/bonn_0_2"):
        put_image(tmp_path / f"leftImg8bit/val/{name}_leftImg8bit.png")
    fine = tmp_path / "gtFine/val"
    put_mask(fine / "ulm/ulm_0_1_gtFine_labelTrainIds.png", [[0, 18, 255], [1, 2, 3]])
    put_mask(fine / "ulm/ulm_0_1_gtFine_labelIds.png", [[0, 0, 0], [0, 0, 0]])
    put_mask(fine / "bonn/bonn_0_2_gtFine_labelIds.png", [[7, 8, 33], [0, 29, 255]])
    put_mask(fine / "bonn/bonn_0_2_gtFine_instanceIds.png", [[0, 0, 0], [0, 0, 0]])
    dataset = open_dataset("cityscapes", tmp_path, classes=CITY)
    assert [s.name for s in dataset.samples] == ["bonn/bonn_0_2", "ulm/ulm_0_1"]
    assert dataset.classes[0] == "road"
    assert dataset.classes[18] == "bicycle"
    ids, train_ids = (read_sample(s)[1].tolist() for s in dataset.samples)
    assert ids == [[0, 1, 18], [IGNORE, IGNORE, IGNORE]]
    assert train_ids == [[0, 18, IGNORE], [1, 2, 3]]


def test_cityscapes_mapping_is_that_of_its_scripts(tmp_path: Path) -> None:
    """Trucks, buses and trains are 27, 28 and 31; caravans and trailers do not count."""
    put_image(tmp_path / "leftImg8bit/val/x/a_leftImg8bit.png", (1, 34))
    put_mask(tmp_path / "gtFine/val/x/a_gtFine_labelIds.png", [list(range(34))])
    (sample,) = open_dataset("cityscapes", tmp_path, classes=CITY).samples
    target = read_sample(sample)[1][0]
    ignored = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}
    assert {i for i, v in enumerate(target) if v == IGNORE} == ignored
    assert [v for v in target if v != IGNORE] == list(range(19))


@pytest.mark.parametrize("nested", ["", "VOC2010", "pcontext/VOCdevkit/VOC2010"])
def test_pascal_context_with_and_without_background(tmp_path: Path, nested: str) -> None:
    root = tmp_path / nested
    for name in ("2008_000002", "2008_000003"):
        put_image(root / f"JPEGImages/{name}.jpg")
        put_mask(root / f"SegmentationClassContext/{name}.png", [[0, 1, 59], [255, 2, 3]])
    listed = root / "ImageSets/SegmentationContext/val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2008_000003\n")
    (sample,) = open_dataset("pascal-context", tmp_path, classes=[""] * 60).samples
    assert sample.name == "2008_000003"
    assert read_sample(sample)[1].tolist() == [[0, 1, 59], [IGNORE, 2, 3]]
    dataset = open_dataset("pascal-context", tmp_path, classes=[""] * 59)
    assert dataset.classes[0] == "aeroplane"
    assert read_sample(dataset.samples[0])[1].tolist() == [[IGNORE, 0, 58], [IGNORE, 1, 2]]


def test_folder_of_ones_own(tmp_path: Path) -> None:
    put_image(tmp_path / "images/b.jpg")
    put_image(tmp_path / "images/a.PNG")
    (tmp_path / "images/notes.txt").write_text("no picture")
    put_mask(tmp_path / "masks/a.png", [[0, 1, 1], [255, 0, 0]])
    palette = Image.fromarray(np.array([[2, 1, 0], [0, 0, 2]], np.uint8))
    palette.putpalette([9, 9, 9, 5, 5, 5, 1, 1, 1])
    palette.save(tmp_path / "masks/b.png")
    (tmp_path / "classes.json").write_text('[["x", [0,0,0]], ["y", [1,1,1]], ["z", [2,2,2]]]')
    dataset = open_dataset("folder", tmp_path, classes=["", "", ""])
    assert dataset.classes == ("x", "y", "z")
    assert [read_sample(s)[1].tolist() for s in dataset.samples] == [
        [[0, 1, 1], [IGNORE, 0, 0]],
        [[2, 1, 0], [0, 0, 2]],
    ]
    ignoring = open_dataset("folder", tmp_path, classes=["", "", ""], ignore_label=2)
    assert read_sample(ignoring.samples[1])[1].tolist() == [[IGNORE, 1, 0], [0, 0, IGNORE]]
    with pytest.raises(IsegError, match="label the data set lacks, such as 255"):
        read_sample(ignoring.samples[0])


def test_folder_with_a_split(tmp_path: Path) -> None:
    put_image(tmp_path / "images/test/a.png")
    put_mask(tmp_path / "masks/test/a.png", [[0, 0, 0], [0, 0, 0]])
    dataset = open_dataset("folder", tmp_path, split="test", classes=["only"])
    assert dataset.classes == ("only",)
    assert len(dataset.samples) == 1


def test_missing_and_damaged_files_are_unreadable(tmp_path: Path) -> None:
    put_ade(tmp_path, "damaged", [[1, 1, 1], [1, 1, 1]])
    image = tmp_path / "images/validation/damaged.jpg"
    image.write_bytes(image.read_bytes()[:200])
    put_image(tmp_path / "images/validation/no_mask.jpg")
    put_mask(tmp_path / "annotations/validation/no_image.png", [[1, 1, 1], [1, 1, 1]])
    samples = open_dataset("ade20k", tmp_path, classes=ADE).samples
    assert [s.name for s in samples] == ["damaged", "no_image", "no_mask"]
    reasons = ("is (a damaged|not a) picture", r"image\.jpg does not", r"mask\.png does not")
    for sample, reason in zip(samples, reasons, strict=True):
        with pytest.raises(UnreadableFileError, match=reason):
            read_sample(sample)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((2, 3), 151, np.uint8), "6 pixels have a label the data set lacks, such as 151"),
        (np.full((2, 3), 300, np.uint16), "6 pixels have a label the data set lacks, such as 300"),
        (np.ones((3, 2), np.uint8), r"is 2 x 3 pixels, and a\.jpg is 3 x 2"),
        (np.zeros((2, 3, 3), np.uint8), r"has colours \(RGB\)"),
    ],
)
def test_wrong_masks_are_refused(tmp_path: Path, mask: np.ndarray, reason: str) -> None:
    put_ade(tmp_path, "a", [[1, 1, 1], [1, 1, 1]])
    Image.fromarray(mask).save(tmp_path / "annotations/validation/a.png")
    (sample,) = open_dataset("ade20k", tmp_path, classes=ADE).samples
    with pytest.raises(IsegError, match=reason) as caught:
        read_sample(sample)
    assert not isinstance(caught.value, UnreadableFileError)


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="unknown data set 'coco'"):
        open_dataset("coco", tmp_path, classes=ADE)
    with pytest.raises(IsegError, match="does not exist"):
        open_dataset("ade20k", tmp_path / "none", classes=ADE)
    for name, classes, part in (
        ("ade20k", ADE, "images"),
        ("cityscapes", CITY, "leftImg8bit"),
        ("pascal-context", [""] * 60, "JPEGImages"),
        ("folder", ["x"], "images/"),
    ):
        with pytest.raises(IsegError, match=f"has no folder {part}"):
            open_dataset(name, tmp_path, classes=classes)
    with pytest.raises(IsegError, match="own ignored label"):
        open_dataset("ade20k", tmp_path, classes=ADE, ignore_label=3)


def test_no_pictures(tmp_path: Path) -> None:
    for part in ("images/validation", "annotations/validation", "masks"):
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(IsegError, match=r"ade20k in .* has no pictures in its split 'val'"):
        open_dataset("ade20k", tmp_path, classes=ADE)
    with pytest.raises(IsegError, match=r"folder in .* has no pictures$"):
        open_dataset("folder", tmp_path, classes=["x"])
    with pytest.raises(IsegError, match="has no folder images/test"):
        open_dataset("ade20k", tmp_path, split="test", classes=ADE)


def test_the_model_must_have_the_classes_of_the_data_set(tmp_path: Path) -> None:
    put_ade(tmp_path, "a", [[1, 1, 1], [1, 1, 1]])
    with pytest.raises(IsegError, match="the model has 7 classes, and ade20k has 150"):
        open_dataset("ade20k", tmp_path, classes=[""] * 7)
    put_image(tmp_path / "images/a.png")
    (tmp_path / "classes.json").write_text('[["x", [0, 0, 0]]]')
    with pytest.raises(IsegError, match=r"the model has 2 classes, and .*classes\.json has 1"):
        open_dataset("folder", tmp_path, classes=["x", "y"])


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.png")
    put_image(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    with pytest.raises(IsegError, match="share one mask"):
        open_dataset("folder", tmp_path, classes=["x"])


def test_checksum_sees_files_and_labels(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.png")
    put_mask(tmp_path / "masks/a.png", [[0, 0, 0], [0, 0, 0]])

    def checksum(**options: int) -> str:
        return open_dataset("folder", tmp_path, classes=["x", "y"], **options).checksum()

    first = checksum()
    assert checksum() == first
    assert checksum(ignore_label=1) != first
    put_image(tmp_path / "images/b.png")
    second = checksum()
    assert second != first
    put_image(tmp_path / "images/b.png", (40, 50))
    assert checksum() != second
