"""The bundle: a folder with one compiled library and a manifest that says what it is.

``manifest.json`` holds everything needed to refuse a library before it is loaded, because a
library for another CPU ends the process with an illegal instruction and not with an exception.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_dir, sha256_file
from iseg_tvm.host_cpu import HostCpu, check_host
from iseg_tvm.sample import EXPECTED_NAME, SAMPLE_NAME, Sample, read_sample
from iseg_tvm.targets import TargetSpec

FORMAT_VERSION = 1
_log = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.json"
LIBRARY_NAME = "model.so"
_CONTENTS = ({LIBRARY_NAME}, {LIBRARY_NAME, SAMPLE_NAME, EXPECTED_NAME})

_RECOMPILE = "compile the model again: iseg-tvm compile"


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of an input or output."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FileInfo:
    """Checksum and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Parameters
    ----------
    model_name : str
        Such as ``vit_tiny_patch16+mask``.
    model_config : mapping
        The model's configuration, JSON values.
    classes : tuple of str
        Class names; index is the value in the class map.
    palette : tuple of (int, int, int)
        One RGB colour (0-255) a class.
    target : TargetSpec
        What the library was compiled for, with the CPU features it needs.
    tvm_version, iseg_tvm_version : str
        What compiled it.
    input, output : TensorInfo
        Image, uint8 (H, W, 3), and class map, uint8 (H, W).
    git_commit : str or None
        Commit of iseg-tvm, if it ran in a checkout.
    llvm_version : str or None
        LLVM that generated the code, in bundles since it is noted.
    peak_activation_bytes : int or None
        Largest amount of activation memory alive at once, if the build planned it.
    kernels : tuple of str
        Names of the kernels chosen, in the order the model runs them.
    files : mapping of str to FileInfo
        Filled in by `write_bundle`.
    """

    model_name: str
    model_config: Mapping[str, Any]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    target: TargetSpec
    tvm_version: str
    iseg_tvm_version: str
    input: TensorInfo
    output: TensorInfo
    git_commit: str | None = None
    llvm_version: str | None = None
    peak_activation_bytes: int | None = None
    kernels: tuple[str, ...] = ()
    files: Mapping[str, FileInfo] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image the library takes."""
        return self.input.shape[0], self.input.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        values = {"format_version": FORMAT_VERSION, "kind": "iseg-tvm bundle"}
        return values | asdict(self) | {"target": self.target.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """Rebuild a manifest from `to_dict`'s values.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            The values are not a manifest's.
        """
        keys = dict(values)
        del keys["format_version"], keys["kind"]
        tensors = {
            key: TensorInfo(tuple(int(n) for n in keys[key]["shape"]), str(keys[key]["dtype"]))
            for key in ("input", "output")
        }
        manifest = cls(
            **{
                **keys,
                **tensors,
                "classes": tuple(map(str, keys["classes"])),
                "palette": tuple((int(r), int(g), int(b)) for r, g, b in keys["palette"]),
                "target": TargetSpec.from_dict(keys["target"]),
                "kernels": tuple(map(str, keys["kernels"])),
                "files": {str(name): FileInfo(**info) for name, info in keys["files"].items()},
            }
        )
        manifest.check()
        return manifest

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises
        ------
        ValueError
            Input or output is not an image and its class map, or colours or classes are missing.
        """
        shape = self.input.shape
        if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or self.input.dtype != "uint8":
            raise ValueError(f"input {shape} {self.input.dtype}, not uint8 (H, W, 3)")
        if self.output.shape != shape[:2] or self.output.dtype != "uint8":
            raise ValueError(f"output {self.output.shape} {self.output.dtype}, not uint8 (H, W)")
        if not 1 <= len(self.classes) <= 256 or len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes and {len(self.palette)} colours")


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose checksums were found right."""

    path: Path
    manifest: Manifest

    @property
    def library(self) -> Path:
        """The shared library."""
        return self.path / LIBRARY_NAME

    def sample(self) -> Sample | None:
        """Read the bundle's picture and expected class map, if it has them.

        Raises
        ------
        IsegError
            They are not of the manifest's size.
        """
        if SAMPLE_NAME not in self.manifest.files:
            return None
        sample = read_sample(self.path)
        shapes = sample.image.shape, sample.class_map.shape
        if shapes != (self.manifest.input.shape, self.manifest.output.shape):
            raise IsegError(f"the sample of {self.path} has another size than its model")
        return sample


class _Probe(Exception):
    """Ends a trial write."""


def check_output(directory: str | os.PathLike[str]) -> None:
    """Refuse a folder that `write_bundle` would refuse, before minutes of compiling.

    Raises
    ------
    IsegError
        The folder holds something else, or cannot be written.
    """
    with suppress(_Probe), atomic_dir(directory, marker=MANIFEST_NAME):
        raise _Probe  # atomic_dir then removes what it made


def write_bundle(
    directory: str | os.PathLike[str],
    library: str | os.PathLike[str],
    manifest: Manifest,
    sample: Sample | None = None,
) -> Bundle:
    """Write a bundle folder, complete or not at all; an older bundle there is replaced.

    Parameters
    ----------
    directory : path-like
        The bundle folder.
    library : path-like
        The compiled shared library, copied in.
    manifest : Manifest
        Its `files` are ignored and filled in.
    sample : Sample, optional
        A picture and its class map, for checks of the bits on any machine.

    Raises
    ------
    IsegError
        The folder holds something else, or cannot be written.
    ValueError
        The manifest contradicts itself.
    """
    manifest.check()
    with atomic_dir(directory, marker=MANIFEST_NAME) as folder:
        copy = folder / LIBRARY_NAME
        shutil.copyfile(library, copy)
        paths = [copy, *(sample.write(folder) if sample is not None else ())]
        files = {
            path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in paths
        }
        text = json.dumps(manifest.to_dict() | {"files": files}, indent=2, ensure_ascii=False)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return read_bundle(directory, runnable=False)


def read_bundle(
    directory: str | os.PathLike[str], *, runnable: bool = True, host: HostCpu | None = None
) -> Bundle:
    """Read a bundle folder and check it, loading nothing.

    Parameters
    ----------
    directory : path-like
        The bundle folder.
    runnable : bool, optional
        Also refuse a bundle this CPU cannot run.
    host : HostCpu, optional
        The CPU to check against; this machine's if left out.

    Raises
    ------
    IsegError
        No bundle, a newer format, a missing or altered file, or one for another CPU.
    """
    folder = Path(directory)
    manifest = _read_manifest(folder)
    if set(manifest.files) not in _CONTENTS:
        raise IsegError(
            f"{folder / MANIFEST_NAME} lists other files than {LIBRARY_NAME} and its sample",
            _RECOMPILE,
        )
    if runnable:
        target = manifest.target
        check_host(target.arch, target.features, what=f"the bundle {folder}", host=host)
    for name, info in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise IsegError(f"the bundle {folder} lacks its file {name}", _RECOMPILE)
        if path.stat().st_size != info.bytes or sha256_file(path) != info.sha256:
            raise IsegError(
                f"{path} is damaged: its checksum is not the manifest's",
                f"copy the bundle again, or {_RECOMPILE}",
            )
    _log.debug("%s: %s for %s, checked", folder, manifest.model_name, manifest.target.name)
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``, refusing what it cannot understand."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise IsegError(f"no bundle folder {folder}", "`iseg-tvm compile -o DIR` makes one")
    if not path.is_file():
        raise IsegError(
            f"{folder} is no bundle: it has no {MANIFEST_NAME}", "`iseg-tvm compile` makes bundles"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if not isinstance(version, int) or isinstance(version, bool):
            raise TypeError(f"format_version {version!r}")
        if version > FORMAT_VERSION:
            raise IsegError(
                f"{path} has format version {version}; this iseg-tvm reads up to {FORMAT_VERSION}",
                "update iseg-tvm, or compile the model again with this one",
            )
        return Manifest.from_dict(values)
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())
        raise IsegError(f"{path} is damaged ({detail})", _RECOMPILE) from error
