"""Files that are either complete or absent: atomic writes, atomic folders, checksums."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from iseg_tvm.errors import IsegError

# Errors of a write itself; any other OSError raised inside the `with` body is the caller's own.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

_log = logging.getLogger(__name__)

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run again",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EFBIG: "the file system or a limit (ulimit -f) refuses files this large",
    errno.EIO: "the disk reports an input/output error: try another disk",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "check the permissions of the folder or choose another one",
    errno.EPERM: "check the permissions of the folder or choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _write_error(path: Path, error: OSError) -> IsegError:
    """Turn the failure to write `path` into a one-line error with its remedy."""
    hint = _HINTS.get(error.errno or 0, "choose another path, then run again")
    return IsegError(f"cannot write {path}: {error.strerror or error}", hint)


def _temporary_sibling(path: Path) -> Path:
    """Return an unused hidden name in the same folder, so that a rename stays on one disk."""
    return path.parent / f".iseg-{os.getpid()}-{secrets.token_hex(6)}.tmp"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` only when it is complete.

    The bytes go to a temporary file in the same folder (created if missing), which is flushed to
    disk and then renamed over `path`. If anything is raised, the temporary file is removed and
    an older file of that name is left as it was.

    Parameters
    ----------
    path : str or path-like
        The final file name.

    Yields
    ------
    BinaryIO
        The temporary file, open for writing.

    Raises
    ------
    IsegError
        The file cannot be created, written (for example: disk full) or renamed, or `path` is
        something other than a regular file (a folder, a device).
    """
    final = Path(path)
    if final.exists() and not final.is_file():
        raise IsegError(f"cannot write {final}: it is not a regular file", "choose another name")
    temporary = _temporary_sibling(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # "xb" with the default mode follows the umask, which tempfile's 0600 would not.
        stream = temporary.open("xb")
    except OSError as error:
        raise _write_error(final, error) from error
    try:
        try:
            with stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            if error.errno in _WRITE_ERRORS:
                raise _write_error(final, error) from error
            raise
        try:
            temporary.replace(final)
            _log.debug("wrote %s, %d bytes", final, final.stat().st_size)
        except OSError as error:
            raise _write_error(final, error) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(
    path: str | os.PathLike[str], *, marker: str, force: bool = False
) -> Iterator[Path]:
    """Fill a folder that appears under `path` only when it is complete.

    Files are written to a temporary sibling folder, which is renamed to `path` at the end. If
    anything is raised, the temporary folder is removed and an older folder stays as it was.

    Parameters
    ----------
    path : str or path-like
        The final folder name.
    marker : str
        Name of a file that every folder of this kind holds (for a bundle: its manifest). An
        existing folder is replaced only if it is empty or holds this file.
    force : bool, optional
        Replace an existing folder whatever it holds.

    Yields
    ------
    Path
        The temporary folder to fill.

    Raises
    ------
    IsegError
        `path` is a file, or a folder that is not ours, or it cannot be written.
    """
    final = Path(path).resolve()
    _refuse_foreign_folder(final, marker, force)
    temporary = _temporary_sibling(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise _write_error(final, error) from error
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno in _WRITE_ERRORS:
                raise _write_error(final, error) from error
            raise
        # The folder may have been filled by somebody else while ours was written.
        _refuse_foreign_folder(final, marker, force)
        try:
            _swap_folders(temporary, final)
            _log.debug("wrote the folder %s", final)
        except OSError as error:
            raise _write_error(final, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _refuse_foreign_folder(final: Path, marker: str, force: bool) -> None:
    """Raise IsegError if `final` is a file, or a folder that must not be replaced."""
    if not final.exists():
        return
    if not final.is_dir():
        raise IsegError(f"cannot write the folder {final}: a file of that name exists")
    if force or (final / marker).is_file() or not any(final.iterdir()):
        return
    raise IsegError(
        f"{final} exists, and is not a folder written by iseg-tvm (it has no {marker})",
        "choose another folder, or remove this one first",
    )


def _swap_folders(new: Path, final: Path) -> None:
    """Rename `new` to `final`; an older `final` is put back if that fails, else deleted."""
    if not final.exists():
        new.rename(final)
        return
    old = _temporary_sibling(final)
    final.rename(old)
    try:
        new.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 checksum of a file.

    Parameters
    ----------
    path : str or path-like
        The file to read.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.

    Raises
    ------
    IsegError
        The file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(2**20):  # hashlib.file_digest came with Python 3.11
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error.strerror or error}") from error
