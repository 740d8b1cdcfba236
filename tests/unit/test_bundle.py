"""The bundle format: what is refused, and that it is refused before anything is loaded."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest

from iseg_tvm.bundle import (
    FORMAT_VERSION,
    LIBRARY_NAME,
    MANIFEST_NAME,
    Manifest,
    TensorInfo,
    check_output,
    read_bundle,
    write_bundle,
)
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import HostCpu
from iseg_tvm.targets import load_target
from tests.conftest import toy_manifest


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "any.so"
    path.write_bytes(bytes(range(256)) * 10)
    return path


@pytest.fixture
def bundle_dir(library: Path, tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", library, toy_manifest(load_target("x86-vnni")))
    return tmp_path / "bundle"


def edit_manifest(bundle_dir: Path, **changes: object) -> None:
    path = bundle_dir / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(bundle_dir: Path, library: Path) -> None:
    manifest = dataclasses.replace(
        toy_manifest(load_target("rpi5")),
        classes=("größe", "b", "c"),
        kernels=("gemm_4x16", "attention"),
        peak_activation_bytes=123,
        git_commit="0" * 40,
    )
    write_bundle(bundle_dir, library, manifest)
    bundle = read_bundle(bundle_dir, runnable=False)
    assert dataclasses.replace(bundle.manifest, files={}) == manifest
    assert bundle.library.read_bytes() == library.read_bytes()
    assert bundle.manifest.files[LIBRARY_NAME].bytes == 2560
    assert bundle.manifest.image_size == (8, 6)
    assert {p.name for p in bundle_dir.iterdir()} == {MANIFEST_NAME, LIBRARY_NAME}


def test_corrupted_library(bundle_dir: Path) -> None:
    library = bundle_dir / LIBRARY_NAME
    data = bytearray(library.read_bytes())
    data[100] ^= 1
    library.write_bytes(data)
    with pytest.raises(IsegError, match="checksum"):
        read_bundle(bundle_dir, runnable=False)


def test_truncated_library(bundle_dir: Path) -> None:
    library = bundle_dir / LIBRARY_NAME
    library.write_bytes(library.read_bytes()[:-1])
    with pytest.raises(IsegError, match="checksum"):
        read_bundle(bundle_dir, runnable=False)


def test_missing_library(bundle_dir: Path) -> None:
    (bundle_dir / LIBRARY_NAME).unlink()
    with pytest.raises(IsegError, match=f"lacks its file {LIBRARY_NAME}"):
        read_bundle(bundle_dir, runnable=False)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="no bundle folder"):
        read_bundle(tmp_path / "absent")


def test_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="is no bundle"):
        read_bundle(tmp_path)


def test_newer_format(bundle_dir: Path) -> None:
    edit_manifest(bundle_dir, format_version=FORMAT_VERSION + 1)
    with pytest.raises(IsegError, match="format version 2") as caught:
        read_bundle(bundle_dir, runnable=False)
    assert "update" in caught.value.hint


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'"text"'])
def test_manifest_that_is_none(bundle_dir: Path, content: bytes) -> None:
    (bundle_dir / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(IsegError, match="is damaged"):
        read_bundle(bundle_dir, runnable=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "1"},
        {"format_version": True},
        {"surprise": 1},
        {"target": {}},
        {"input": {"shape": [8, 6], "dtype": "uint8"}},
        {"input": {"shape": [8, 6, 3], "dtype": "float32"}},
        {"output": {"shape": [6, 8], "dtype": "uint8"}},
        {"palette": [[0, 0, 0]]},
        {"classes": []},
        {"files": 3},
        {"files": {"model.so": {"sha256": "0"}}},
    ],
    ids=str,
)
def test_manifest_with_a_wrong_value(bundle_dir: Path, changes: dict[str, object]) -> None:
    edit_manifest(bundle_dir, **changes)
    with pytest.raises(IsegError, match="is damaged"):
        read_bundle(bundle_dir, runnable=False)


def test_files_outside_the_bundle_are_not_followed(bundle_dir: Path) -> None:
    files = {"../any.so": {"sha256": "0" * 64, "bytes": 2560}}
    edit_manifest(bundle_dir, files=files)
    with pytest.raises(IsegError, match=r"lists other files than model\.so"):
        read_bundle(bundle_dir, runnable=False)


def test_other_architecture(bundle_dir: Path) -> None:
    host = HostCpu("aarch64", frozenset({"asimd"}))
    with pytest.raises(IsegError, match="is for x86_64 CPUs, and this one is aarch64"):
        read_bundle(bundle_dir, host=host)


def test_missing_cpu_feature(bundle_dir: Path) -> None:
    features = load_target("x86-vnni").features
    with pytest.raises(IsegError, match="lacks: avx512_vnni$") as caught:
        read_bundle(bundle_dir, host=HostCpu("x86_64", features - {"avx512_vnni"}))
    assert "--target native" in caught.value.hint
    assert read_bundle(bundle_dir, host=HostCpu("x86_64", features)).path == bundle_dir


def test_an_older_bundle_is_replaced_and_another_folder_is_not(
    bundle_dir: Path, library: Path, tmp_path: Path
) -> None:
    manifest = toy_manifest(load_target("rpi4"))
    write_bundle(bundle_dir, library, manifest)
    assert read_bundle(bundle_dir, runnable=False).manifest.target.name == "rpi4"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"")
    for attempt in (lambda d: write_bundle(d, library, manifest), check_output):
        with pytest.raises(IsegError, match="not a folder written by iseg-tvm"):
            attempt(tmp_path / "photos")


def test_checking_the_output_changes_nothing(bundle_dir: Path, tmp_path: Path) -> None:
    check_output(bundle_dir)
    check_output(tmp_path / "new")
    assert read_bundle(bundle_dir, runnable=False).path == bundle_dir
    assert sorted(p.name for p in tmp_path.iterdir()) == ["any.so", "bundle"]


def test_a_full_disk_leaves_the_older_bundle(
    bundle_dir: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(p.name for p in bundle_dir.parent.iterdir())
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(IsegError, match="No space left"):
        write_bundle(bundle_dir, library, toy_manifest(load_target("rpi4")))
    assert read_bundle(bundle_dir, runnable=False).manifest.target.name == "x86-vnni"
    assert sorted(p.name for p in bundle_dir.parent.iterdir()) == before


def test_a_manifest_that_contradicts_itself_is_not_written(library: Path, tmp_path: Path) -> None:
    manifest: Manifest = dataclasses.replace(
        toy_manifest(load_target("rpi4")), output=TensorInfo((8, 6), "int64")
    )
    with pytest.raises(ValueError, match="int64"):
        write_bundle(tmp_path / "bundle", library, manifest)
    assert not (tmp_path / "bundle").exists()
