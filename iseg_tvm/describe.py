"""Descriptions of our files, as JSON values: what ``iseg-tvm info`` prints."""

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iseg_tvm import __version__
from iseg_tvm.bundle import MANIFEST_NAME, read_bundle
from iseg_tvm.deployment import SUFFIX, read_archive
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import check_host, read_host_cpu
from iseg_tvm.targets import NATIVE, TargetSpec, list_targets, load_target
from iseg_tvm.tuning_files import RECORDS, SUMMARY, read_notes, read_sessions

_KNOWN = (
    "a checkpoint folder, a model (.safetensors), a bundle folder, a deploy archive (.tar.gz), a "
    "tuning log's folder, a target (.toml), a JSON file of bench or evaluate"
)
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "pillow", "torch", "timm", "xgboost")


def describe(path: str) -> dict[str, Any]:
    """Describe any file or folder of ours, or a target.

    Parameters
    ----------
    path : str
        A file or folder, or the name of a target.

    Returns
    -------
    dict
        JSON values; ``kind`` says what it is.

    Raises
    ------
    IsegError
        It is none of them, or is damaged.
    """
    place = Path(path)
    if place.is_dir() and (place / MANIFEST_NAME).exists():
        return describe_bundle(place)
    if place.is_dir() and (place / RECORDS).exists():
        return describe_tuning_log(place)
    if place.is_dir() or (place.suffix == ".pth" and place.exists()):
        return describe_checkpoint(place)
    if place.suffix == ".safetensors" and place.exists():
        return describe_model(place)
    if place.is_file() and place.name.endswith(SUFFIX):
        return describe_archive(place)
    if place.is_file() and place.suffix != ".toml":
        return _describe_json(place)
    if not place.exists() and (len(place.parts) > 1 or place.suffix):
        raise IsegError(f"{path} does not exist", "name one of our files, or a target")
    return describe_target(load_target(path))


def describe_machine() -> dict[str, Any]:
    """Describe this machine: CPU, package versions, and the targets it can run."""
    host = read_host_cpu()
    targets = {}
    for spec in list_targets():
        runs = spec.arch == host.arch and spec.features <= host.features
        targets[spec.name] = spec.description + (" [runs here]" if runs else "")
    try:
        native = load_target(NATIVE).name
    except IsegError:
        native = None
    return {
        "kind": "machine",
        "iseg_tvm": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "architecture": host.arch,
        "cpus": host.num_cores,
        "native_target": native,
        "targets": targets,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_target(spec: TargetSpec) -> dict[str, Any]:
    """Describe a target, and whether this machine runs it."""
    return {
        "kind": "target",
        **spec.to_dict(),
        **_runs_here(spec),
    }


def _runs_here(spec: TargetSpec) -> dict[str, Any]:
    try:
        check_host(spec.arch, spec.features, what="it")
    except IsegError as error:
        return {"runs_here": False, "because": error.message}
    return {"runs_here": True}


def describe_bundle(folder: Path) -> dict[str, Any]:
    """Describe a bundle, after checking its files."""
    manifest = read_bundle(folder, runnable=False).manifest
    return {
        "kind": "bundle",
        **{k: v for k, v in manifest.to_dict().items() if k not in ("kind", "palette", "target")},
        "classes": list(manifest.classes),
        "target": manifest.target.to_dict(),
        **_runs_here(manifest.target),
    }


def describe_model(path: Path) -> dict[str, Any]:
    """Describe an integer model."""
    from iseg_tvm.artifact import load_model

    model = load_model(path)
    bytes_by_dtype: Counter[str] = Counter()
    for tensor in model.tensors.values():
        bytes_by_dtype[str(tensor.dtype)] += tensor.nbytes
    return {
        "kind": "integer model",
        "file_bytes": path.stat().st_size,
        "tensors": len(model.tensors),
        "tensor_bytes": dict(bytes_by_dtype),
        "image_size": list(model.input_size),
        "polynomial": model.polynomial,
        "config": model.config.to_dict(),
        "classes": list(model.classes),
        "provenance": dict(model.provenance),
    }


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Describe a float checkpoint, after loading it."""
    from iseg_tvm.models.checkpoint import CHECKPOINT_FILE, VARIANT_FILE, load_checkpoint

    if path.is_dir() and not ((path / CHECKPOINT_FILE).exists() or (path / VARIANT_FILE).exists()):
        raise IsegError(
            f"the folder {path} holds neither a bundle ({MANIFEST_NAME}) nor a checkpoint "
            f"({CHECKPOINT_FILE})",
        )
    model = load_checkpoint(path)
    return {
        "kind": "float checkpoint",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": model.config.to_dict(),
    }


def describe_archive(path: Path) -> dict[str, Any]:
    """Describe a deploy archive, after checking its files."""
    manifest, names = read_archive(path)
    return {
        "kind": "deploy archive",
        "file_bytes": path.stat().st_size,
        "files": names,
        "model": manifest.model_name,
        "image_size": list(manifest.image_size),
        "classes": list(manifest.classes),
        "target": manifest.target.to_dict(),
        **_runs_here(manifest.target),
    }


def describe_tuning_log(folder: Path) -> dict[str, Any]:
    """Describe a tuning log by what its runs noted."""
    sessions = read_sessions(folder)
    tasks = read_notes(folder / SUMMARY).get("tasks", [])
    timed = [t for t in tasks if t["default_ms"] and t["best_ms"]]
    totals = {
        key: round(sum(t["calls"] * t[key] for t in timed), 4) if timed else None
        for key in ("default_ms", "best_ms")
    }
    return {
        "kind": "tuning log",
        "records": len((folder / RECORDS).read_text(encoding="utf-8").splitlines()),
        "emulated": any(session["emulated"] for session in sessions),
        "measured_on": sorted({b["name"] for s in sessions for b in s["measured_on"]}),
        "dates": [session["date"] for session in sessions],
        "kernels": _kernels(tasks),
        "all_calls": totals,
    }


def _kernels(tasks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What was found for each kernel; where names repeat (other types) they get "#2" and so on."""
    found: dict[str, str] = {}
    for task in tasks:
        same = sum(name.partition("#")[0] == task["task"] for name in found)
        found[f"{task['task']}#{same + 1}" if same else task["task"]] = _schedule(task)
    return found


def _schedule(task: Mapping[str, Any]) -> str:
    if not task["best_ms"]:
        return "not measured"
    chosen = " ".join(f"{name}={value}" for name, value in (task["schedule"] or {}).items())
    return f"{task['best_ms']:.4f} ms ({task['default_ms']:.4f} by default) {chosen}".rstrip()


def _describe_json(path: Path) -> dict[str, Any]:
    """Describe a result or state by what it says it is."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if isinstance(values, dict):
        # The first results of `evaluate` did not say what they are.
        unnamed = "iseg-tvm evaluation" if "mean_iou" in values else None
        says = str(values.get("kind", values.get("format", unnamed)))
        if says in _JSON_KINDS:
            return {"kind": says.removeprefix("iseg-tvm "), **_JSON_KINDS[says](path)}
    raise IsegError(f"{path} is none of our files", f"known: {_KNOWN}")


def _benchmark(path: Path) -> dict[str, Any]:
    from iseg_tvm.benchmarking.result import read_json

    result = read_json(path)
    return {
        "format_version": json.loads(path.read_text(encoding="utf-8"))["format_version"],
        "board": result.board.name,
        "bits_equal": result.check.equal,
        "latency_ms": {name: round(ms, 3) for name, ms in result.latency_ms().items()},
        **{k: v for k, v in result.row().items() if not k.endswith("_ms") and v is not None},
    }


def _evaluation_result(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("kind", "confusion", "classes")}


def _evaluation_state(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    return {
        "version": values["version"],
        "samples_done": values["done"],
        "skipped": len(values["skipped"]),
        **values["identity"],
    }


_JSON_KINDS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "iseg-tvm benchmark": _benchmark,
    "iseg-tvm evaluation": _evaluation_result,
    "iseg-tvm evaluation state": _evaluation_state,
}
