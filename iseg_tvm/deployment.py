"""One archive that runs on a board with Python, TVM's runtime and numpy, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import re
import tarfile
import zlib
from pathlib import Path

from iseg_tvm.bundle import MANIFEST_NAME, Bundle, Manifest
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

_PACKAGE = Path(__file__).resolve().parent
# What `iseg_tvm.runtime` imports; a test runs an archive where nothing else is.
_MODULES = (
    "__init__", "errors", "files", "host_cpu", "target_file", "targets", "sample", "bundle",
    "runtime",
)  # fmt: skip
_REQUIREMENTS = ("apache-tvm", "apache-tvm-ffi", "numpy")
SUFFIX = ".tar.gz"


def check_archive_name(path: str | os.PathLike[str]) -> str:
    """Return the name of the folder inside the archive.

    Raises
    ------
    IsegError
        The name does not end in ``.tar.gz``.
    """
    name = Path(path).name
    if not name.endswith(SUFFIX) or name == SUFFIX:
        raise IsegError(f"{path}: an archive's name ends in {SUFFIX}", f"such as rpi4{SUFFIX}")
    return name.removesuffix(SUFFIX)


def write_archive(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Pack a bundle with all that a board needs; equal bundles give equal bytes.

    Parameters
    ----------
    bundle : Bundle
        With a sample.
    path : path-like
        The archive, ``*.tar.gz``.

    Raises
    ------
    IsegError
        The bundle has no sample, or the archive cannot be written.
    """
    top = check_archive_name(path)
    files = archive_files(bundle)
    with (
        atomic_write(path) as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode = len(content), 0o755 if name == "run.py" else 0o644
            archive.addfile(entry, io.BytesIO(content))


def archive_files(bundle: Bundle) -> dict[str, bytes]:
    """Return the archive's files by their names, checksums included.

    Raises
    ------
    IsegError
        The bundle has no sample.
    """
    if bundle.sample() is None:
        raise IsegError(
            f"{bundle.path} carries no sample, so a board could not check itself",
            "compile it again without --no-sample",
        )
    files = {
        f"bundle/{name}": (bundle.path / name).read_bytes()
        for name in (MANIFEST_NAME, *bundle.manifest.files)
    }
    files |= {f"iseg_tvm/{m}.py": (_PACKAGE / f"{m}.py").read_bytes() for m in _MODULES}
    files["run.py"] = (_PACKAGE / "data/board_run.py").read_bytes()
    files["README.md"] = _readme(bundle).encode()
    files["requirements.txt"] = "".join(f"{line}\n" for line in board_requirements()).encode()
    sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return files | {"SHA256SUMS": "".join(sums).encode()}


def read_archive(path: str | os.PathLike[str]) -> tuple[Manifest, list[str]]:
    """Return the manifest and the file names of an archive whose checksums were found right.

    Raises
    ------
    IsegError
        No archive of ours, or a damaged one.
    """
    again = "`iseg-tvm deploy` writes archives"
    try:
        with tarfile.open(path, "r:gz") as archive:
            files = {
                entry.name.partition("/")[2]: extracted.read()
                for entry in archive
                if (extracted := archive.extractfile(entry)) is not None
            }
        lines = files.pop("SHA256SUMS").decode().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        values = json.loads(files[f"bundle/{MANIFEST_NAME}"])
        manifest = Manifest.from_dict(values)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise IsegError(f"cannot read the archive {path}: {error}", again) from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise IsegError(f"{path} is no deploy archive ({error!r})", again) from error
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    wrong = sorted(name for name in found | sums if found.get(name) != sums.get(name))
    if wrong:
        raise IsegError(f"{path} is damaged: {wrong[0]} is missing or altered", again)
    return manifest, sorted(files)


def board_requirements() -> list[str]:
    """Return what pip installs on a board, with the versions this package pins."""
    try:
        listed = importlib.metadata.requires("iseg-tvm") or []
    except importlib.metadata.PackageNotFoundError:
        raise IsegError(
            "iseg-tvm is not installed, so it is unknown which versions a board needs",
            "pip install -e . in the checkout",
        ) from None
    return [r for r in listed if re.split(r"[=<>~!; ]", r)[0] in _REQUIREMENTS]


def _readme(bundle: Bundle) -> str:
    manifest = bundle.manifest
    height, width = manifest.image_size
    return (_PACKAGE / "data/board_readme.md").read_text(encoding="utf-8").format(
        model=manifest.model_name, target=manifest.target.name,
        description=manifest.target.description, height=height, width=width,
        classes=len(manifest.classes), features=" ".join(sorted(manifest.target.features)),
    )  # fmt: skip
