"""Atomic files and folders: complete or absent, whatever happens."""

import errno
import hashlib
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_dir, atomic_write, sha256_file

MARKER = "manifest.json"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the system refuse to write files over `size` bytes: a real failure of write()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_folder(path: Path, text: str = "new", **options: bool) -> None:
    with atomic_dir(path, marker=MARKER, **options) as folder:
        (folder / MARKER).write_text(text)


def write_half_a_file(path: Path, error: BaseException) -> None:
    with atomic_write(path) as stream:
        stream.write(b"half")
        raise error


def write_half_a_folder(path: Path, error: BaseException) -> None:
    with atomic_dir(path, marker=MARKER) as folder:
        (folder / MARKER).write_text("half")
        raise error


def test_error_carries_message_and_hint() -> None:
    error = IsegError("it is wrong", "do this")
    assert (str(error), error.message, error.hint) == ("it is wrong", "it is wrong", "do this")
    assert IsegError("alone").hint == ""


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    for content in (b"first", b"second"):
        with atomic_write(path) as stream:
            stream.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_write_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file") as stream:
            stream.write(b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), FileNotFoundError(2)])
def test_write_keeps_the_old_file_on_any_exception(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half_a_file(path, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_that_the_system_refuses(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        pytest.raises(IsegError, match="cannot write .*file") as caught,
        file_size_limit(1000),
        atomic_write(path) as stream,
    ):
        stream.write(bytes(100_000))
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IsegError, match="No space left") as caught, atomic_write(tmp_path / "f"):
        pass
    assert "disk is full" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_write_over_a_folder_or_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(IsegError, match="not a regular file"), atomic_write(path):
            pass
    assert Path(os.devnull).is_char_device()


def test_write_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(IsegError, match="cannot write") as caught,
        atomic_write(tmp_path / "file" / "inner"),
    ):
        pass
    assert caught.value.hint


def test_folder_appears_complete_and_replaces_ours(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bundle"
    with atomic_dir(path, marker=MARKER) as folder:
        (folder / MARKER).write_text("first")
        (folder / "old-only").touch()
        assert not path.exists()
    write_folder(path, "second")
    assert [item.name for item in path.iterdir()] == [MARKER]
    assert (path / MARKER).read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_folder_of_somebody_else_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter.txt").write_text("years of work")
    with pytest.raises(IsegError, match="not a folder written by iseg-tvm"):
        write_folder(path)
    assert (path / "chapter.txt").read_text() == "years of work"
    write_folder(path, force=True)
    assert [item.name for item in path.iterdir()] == [MARKER]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty")
    assert (tmp_path / "empty" / MARKER).read_text() == "new"


def test_folder_over_a_file_is_refused_even_if_forced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(IsegError, match="a file of that name exists"):
        write_folder(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "old"


def test_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_folder(path, "old")
    with (
        pytest.raises(IsegError, match="cannot write"),
        file_size_limit(1000),
        atomic_dir(path, marker=MARKER) as folder,
    ):
        (folder / MARKER).write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match="mine"):
        write_half_a_folder(path, ValueError("mine"))
    assert (path / MARKER).read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_folder_comes_back_if_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    write_folder(path, "old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if target == path and (self / MARKER).read_text() == "new":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(IsegError, match="Permission denied"):
        write_folder(path, "new")
    assert (path / MARKER).read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(IsegError, match="cannot read .*missing"):
        sha256_file(tmp_path / "missing")
