"""The quantized model's file: round trip, damage, foreign and newer files, a full disk."""

import errno
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from iseg_tvm import artifact
from iseg_tvm.artifact import QuantizedModel, load_model, save_model
from iseg_tvm.errors import IsegError
from iseg_tvm.reference_model import run_reference
from tests.helpers import random_image, random_quantized_model, tiny_config


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return random_quantized_model(tiny_config(l2_norm=True), polynomial="linear")


@pytest.fixture
def path(model: QuantizedModel, tmp_path: Path) -> Path:
    return save_model(model, tmp_path / "model.safetensors")


def refused(path: Path, *words: str) -> None:
    """Assert one readable line that names the file."""
    with pytest.raises(IsegError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def rewrite(path: Path, tensors: Mapping[str, np.ndarray] | None = None, **changes: Any) -> None:
    """Change fields of the header (None deletes one), and all tensors if they are given."""
    tensors = load_model(path).tensors if tensors is None else tensors
    with artifact.safe_open(path, framework="numpy") as stream:
        header = json.loads(stream.metadata()["iseg"])
    header.update(changes)
    kept = {k: v for k, v in header.items() if v is not None}
    save_file(dict(tensors), path, metadata={"iseg": json.dumps(kept)})


@pytest.mark.parametrize("decoder", ["mask_transformer", "linear"])
def test_round_trip(decoder: str, tmp_path: Path) -> None:
    model = random_quantized_model(
        tiny_config(decoder=decoder, distilled=True, normalization="deit"), input_size=(19, 30)
    )
    again = load_model(save_model(model, tmp_path / "deep" / "model.safetensors"))
    assert replace(again, tensors={}) == replace(model, tensors={})
    assert again.tensors.keys() == model.tensors.keys()
    for name, tensor in model.tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(again.tensors[name], tensor)
    image = random_image(19, 30)
    np.testing.assert_array_equal(run_reference(again, image), run_reference(model, image))


def test_every_tensor_is_an_integer_tensor(path: Path) -> None:
    kinds = {tensor.dtype.name for tensor in load_model(path).tensors.values()}
    assert kinds == {"int8", "int16", "int32"}


def test_saving_is_deterministic(model: QuantizedModel, tmp_path: Path) -> None:
    first, second = (save_model(model, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such model file")
    refused(tmp_path, "no such model file")


@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.01, 0.3, 0.7, 0.999])
def test_truncated_file(path: Path, fraction: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    refused(path, "damaged")


def test_truncated_by_one_byte_or_lengthened(path: Path) -> None:
    data = path.read_bytes()
    for changed in (data[:-1], data + b"\0", data[:7], data[:8], data[:9]):
        path.write_bytes(changed)
        refused(path, "damaged")


@pytest.mark.parametrize("offset", [0, 3, 7, 8, 9])
def test_flipped_header_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(bytes(data))
    refused(path)


def test_not_a_safetensors_file(path: Path) -> None:
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello", bytes(64), b"PK\x03\x04" * 50):
        path.write_bytes(content)
        refused(path, "damaged or not a safetensors file")


def test_foreign_safetensors_file(path: Path) -> None:
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    refused(path, "not a quantized model of iseg-tvm")
    save_torch_file({"weight": torch.zeros(2, 2, dtype=torch.bfloat16)}, path)
    refused(path, "not a quantized model of iseg-tvm")
    for header in ("[]", "{", '{"format": "other"}'):
        save_file({"weight": np.zeros(2, np.int8)}, path, metadata={"iseg": header})
        refused(path, "not a quantized model of iseg-tvm")


@pytest.mark.parametrize("version", [3, 0, "1", None])
def test_other_version(path: Path, version: object) -> None:
    rewrite(path, version=version)
    with pytest.raises(IsegError, match="this program reads 2") as caught:
        load_model(path)
    assert "update iseg-tvm" in caught.value.hint


def test_tables_of_version_1_had_no_groups(path: Path) -> None:
    first, second = (f"encoder.blocks.{i}.activation.table" for i in range(2))
    tensors = dict(load_model(path).tensors)
    assert tensors[second].shape == (2, 256)
    old = {n: t[0] if n.endswith(".table") else t for n, t in tensors.items()}
    rewrite(path, old, version=1)
    found = load_model(path).tensors
    assert found[first].tolist() == tensors[first].tolist()
    assert found[second].tolist() == tensors[second][:1].tolist()
    rewrite(path, old, version=2)
    refused(path, first, "is int8[256], its architecture needs int8[1, 256] or int8[2, 256]")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, bool])
def test_tensor_of_another_type(path: Path, dtype: Any) -> None:
    with artifact.safe_open(path, framework="numpy") as stream:
        metadata = stream.metadata()
    tensors = dict(load_model(path).tensors)
    tensors["encoder.tokens"] = tensors["encoder.tokens"].astype(dtype)
    save_file(tensors, path, metadata=metadata)
    refused(path, "encoder.tokens", "not an integer of 8, 16 or 32 bits")


@pytest.mark.parametrize(
    "field",
    ["scalars", "input_size", "polynomial", "classes", "palette", "provenance", "model"],
)
def test_missing_field(path: Path, field: str) -> None:
    rewrite(path, **{field: None})
    refused(path, field)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": [1]},
        {"input_size": 5},
        {"input_size": [0, 4]},
        {"scalars": [1]},
        {"scalars": {"a": "x"}},
        {"scalars": {"a": 1.5}},
        {"palette": [[1, 2]]},
        {"classes": 3},
        {"polynomial": "cubic"},
        {"provenance": "yes"},
        {"model": {"encoder": 3}},
        {"model": []},
    ],
    ids=str,
)
def test_garbled_field(path: Path, changes: dict[str, Any]) -> None:
    rewrite(path, **changes)
    refused(path)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("encoder.blocks.1.fc1.weight", None, "is missing"),
        ("decoder.cls_emb", np.zeros((7, 23), np.int16), "int16[7, 23], its architecture needs"),
        ("encoder.norm.beta", np.zeros(24, np.int16), "its architecture needs int32[24]"),
        (
            "encoder.blocks.1.activation.table",
            np.zeros((3, 256), np.int8),
            "int8[3, 256], its architecture needs int8[1, 256] or int8[2, 256]",
        ),
        ("decoder.other", np.zeros(3, np.int8), "is not part of its architecture"),
    ],
)
def test_tensors_must_fit_the_configuration(
    path: Path, name: str, changed: np.ndarray | None, words: str
) -> None:
    tensors = {**load_model(path).tensors, name: changed}
    with artifact.safe_open(path, framework="numpy") as stream:
        metadata = stream.metadata()
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata=metadata)
    refused(path, name, words)


def test_scalars_must_fit_the_configuration(model: QuantizedModel, path: Path) -> None:
    for name in model.scalars:
        save_model(model, path)
        rewrite(path, scalars={k: v for k, v in model.scalars.items() if k != name})
        refused(path, f"scalar {name} is missing")


def test_full_disk_leaves_nothing(
    model: QuantizedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for target in (path, path.with_name("new.safetensors")):
        with pytest.raises(IsegError, match="No space left") as caught:
            save_model(model, target)
        assert "disk is full" in caught.value.hint
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_full_disk_while_writing(
    model: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write call itself fails, as on a really full disk."""
    original = Path.open

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, data: bytes) -> int:
            self.stream.write(data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(self: Path, *args: Any, **keywords: Any) -> Any:
        return Full(original(self, *args, **keywords))

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(IsegError, match="No space left"):
        save_model(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_input_size(model: QuantizedModel) -> None:
    assert model.with_input_size(7, 9).input_size == (7, 9)
    for height, width in ((0, 5), (5, -1)):
        with pytest.raises(IsegError, match="empty"):
            model.with_input_size(height, width)


def test_padding_pixel(model: QuantizedModel) -> None:
    assert model.pad == (128, 128, 128)
    deit = random_quantized_model(tiny_config(normalization="deit"))
    assert deit.pad == (124, 116, 104)
