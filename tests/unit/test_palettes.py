"""Palettes: the published data sets', generated ones, and a user's own file."""

import json
from pathlib import Path

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.palettes import (
    generic_palette,
    list_palettes,
    load_palette,
    palette_for,
    read_classes,
)


@pytest.mark.parametrize(
    ("name", "count"),
    [("ade20k", 150), ("cityscapes", 19), ("pascal_context", 60), ("pascal_context_59", 59)],
)
def test_published_palettes(name: str, count: int) -> None:
    palette = load_palette(name)
    assert len(palette.classes) == len(palette.colors) == count
    assert len(set(palette.classes)) == count
    assert all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in palette.colors)
    assert all(n == n.strip() and n for n in palette.classes)


def test_all_published_palettes_are_tested() -> None:
    assert list_palettes() == ["ade20k", "cityscapes", "pascal_context", "pascal_context_59"]


@pytest.mark.parametrize(
    ("name", "index", "class_name", "color"),
    [
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 12, "person", (150, 5, 61)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("cityscapes", 13, "car", (0, 0, 142)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("pascal_context", 0, "background", (120, 120, 120)),
        ("pascal_context", 15, "person", (255, 6, 82)),
        ("pascal_context", 59, "wood", (31, 0, 255)),
        ("pascal_context_59", 0, "aeroplane", (180, 120, 120)),
    ],
)
def test_landmarks(name: str, index: int, class_name: str, color: tuple[int, int, int]) -> None:
    palette = load_palette(name)
    assert (palette.classes[index], palette.colors[index]) == (class_name, color)


def test_unknown_palette() -> None:
    with pytest.raises(IsegError, match="unknown palette 'coco'") as caught:
        load_palette("coco")
    assert "ade20k" in caught.value.hint


def test_generated_colours_are_distinct() -> None:
    palette = generic_palette(256)
    assert len(set(palette.colors)) == 256
    assert palette.classes[255] == "class 255"
    assert generic_palette(5).colors == palette.colors[:5]


@pytest.mark.parametrize("count", [0, -1, 257])
def test_class_counts_that_do_not_fit_8_bits(count: int) -> None:
    with pytest.raises(IsegError, match="do not fit"):
        generic_palette(count)


def test_names_must_match_their_number() -> None:
    assert generic_palette(2, ["a", "b"]).classes == ("a", "b")
    with pytest.raises(IsegError, match="3 class names for 2 classes"):
        generic_palette(2, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("count", "dataset", "name"),
    [
        (150, "ade20k", "ade20k"),
        (60, "pascal_context", "pascal_context"),
        (59, "pascal_context", "pascal_context_59"),
        (150, "", "generic"),
        (151, "ade20k", "generic"),
        (19, "potsdam", "generic"),
    ],
)
def test_palette_of_a_model(count: int, dataset: str, name: str) -> None:
    palette = palette_for(count, dataset)
    assert palette.name == name
    palette.check_count(count)


def test_another_number_of_classes() -> None:
    with pytest.raises(IsegError, match="names 19 classes, and the model has 20"):
        load_palette("cityscapes").check_count(20)


def test_file_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('[["sky", [1, 2, 3]], ["Straße", [0, 0, 255]]]', encoding="utf-8")
    palette = read_classes(path)
    assert palette.classes == ("sky", "Straße")
    assert palette.colors == ((1, 2, 3), (0, 0, 255))


@pytest.mark.parametrize(
    "content",
    [
        [], {}, None, [1], [["sky"]], [["sky", [1, 2]]], [["sky", [1, 2, 256]]],
        [["sky", [1, 2, -1]]], [[3, [1, 2, 3]]], [["sky", "blue"]], [["", [1, 2, 3]]],
        [["sky", [1, 2, 3]], ["road", [1, 2.5, 3]]],
    ],
    ids=str,
)  # fmt: skip
def test_wrong_file_of_classes(tmp_path: Path, content: object) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(IsegError, match="is not a list of classes"):
        read_classes(path)


def test_file_of_classes_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("sky, road")
    with pytest.raises(IsegError, match="is not a JSON file"):
        read_classes(tmp_path / "text")
    with pytest.raises(IsegError, match="cannot read"):
        read_classes(tmp_path / "absent")
