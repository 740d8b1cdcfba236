"""Reading weight files without running code, and checking every tensor before it is used."""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from iseg_tvm.errors import IsegError

_LISTED = 4  # names shown in a message before "and N more"
_UNSAFE = re.compile(r"global|blocked|not allowed|can only build|can only create", re.IGNORECASE)
_UNSAFE_NAME = re.compile(r"GLOBAL ([\w.]+)")


def read_weight_file(path: Path) -> Any:
    """Read a ``.safetensors`` file, or a PyTorch file that holds data only.

    Parameters
    ----------
    path : Path
        The file; anything but ``.safetensors`` is read as a PyTorch file.

    Returns
    -------
    Any
        For safetensors a dictionary of tensors; else what the file holds.

    Raises
    ------
    IsegError
        The file is missing, damaged, or needs Python code to be run.
    """
    if not path.is_file():
        raise IsegError(f"{path} is missing", "check the path")
    damaged = IsegError(
        f"{path} is damaged or no weight file", "copy or download it again, and compare its size"
    )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _UNSAFE.search(str(error)):
            raise damaged from error
        name = _UNSAFE_NAME.search(str(error))
        asks = f" ({name[1]})" if name else ""
        raise IsegError(
            f"{path} is refused: loading it would run Python code{asks}, "
            "and a checkpoint from elsewhere may run anything",
            "if you trust its author, save the weights alone in the environment they come from: "
            "torch.save({'model': model.state_dict()}, 'checkpoint.pth')",
        ) from error
    # A cut file fails in many ways: zip directory, end of file, missing record, bad text.
    except Exception as error:
        raise damaged from error


def check_weights(
    found: Iterable[tuple[str, object]], expected: Mapping[str, torch.Size], source: str
) -> dict[str, Tensor]:
    """Check names, duplicates, types, shapes and values; return float32 tensors.

    Parameters
    ----------
    found : iterable of (str, object)
        Parameter names and what the file holds under them.
    expected : mapping of str to torch.Size
        Every parameter of the model and its shape.
    source : str
        The file, for messages.

    Returns
    -------
    dict of str to Tensor
        Exactly the expected names, float32, finite.

    Raises
    ------
    IsegError
        A name is missing, unexpected or there twice; a tensor has another shape, is not of
        floating point, or holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in found:
        if name in tensors:
            raise IsegError(f"{source}: parameter {name} is there twice")
        if not isinstance(value, Tensor):
            raise IsegError(f"{source}: {name} is no tensor but {type(value).__name__}")
        tensors[name] = value
    missing = [name for name in expected if name not in tensors]
    leftover = [name for name in tensors if name not in expected]
    if missing or leftover:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has unexpected {_some(leftover)}"] if leftover else []
        raise IsegError(
            f"{source}: the weights do not fit the model: it {' and '.join(parts)}",
            "check that variant.yml (or the chosen model) belongs to these weights",
        )
    wrong = [
        f"{name} (expected {tuple(shape)}, found {tuple(tensors[name].shape)})"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise IsegError(
            f"{source}: wrong shape of {_some(wrong)}",
            "check that variant.yml (or the chosen model) belongs to these weights",
        )
    return {name: _checked_float(name, tensors[name], source) for name in expected}


def _checked_float(name: str, tensor: Tensor, source: str) -> Tensor:
    """Return `tensor` as contiguous float32, or raise IsegError."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise IsegError(f"{source}: {name} must be floating point, found {kind}")
    result = tensor.to(torch.float32).contiguous()
    bad = int((~torch.isfinite(result)).sum())
    if bad:
        raise IsegError(
            f"{source}: {name} holds NaN or infinity in {bad} of {result.numel()} values",
            "the training diverged or the file is damaged: use another checkpoint",
        )
    return result


def _some(names: list[str]) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
