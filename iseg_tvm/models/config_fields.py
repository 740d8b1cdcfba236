"""Checks shared by the configuration dataclasses: ranges, and building one from a dictionary."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, get_origin

from iseg_tvm.errors import IsegError


def require_positive(config: object, owner: str, *names: str) -> None:
    """Raise IsegError unless every named field of `config` is over zero."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise IsegError(f"{owner}: {name} must be over 0, found {value!r}")


def require_rate(config: object, owner: str, *names: str) -> None:
    """Raise IsegError unless every named field of `config` is in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise IsegError(f"{owner}: {name} must be in [0, 1), found {value!r}")


_Config = TypeVar("_Config")


def build_dataclass(kind: type[_Config], values: Any, owner: str) -> _Config:
    """Build one dataclass, naming missing and unknown fields and wrong types."""
    if not isinstance(values, Mapping):
        raise IsegError(f"{owner}: expected named fields, found {type(values).__name__}")
    known = {field.name: field for field in fields(cast(Any, kind))}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise IsegError(
            f"{owner}: unknown field {', '.join(map(str, unknown))}",
            "the file may have been written by a newer version of iseg-tvm",
        )
    for name, value in values.items():
        expected: Any = known[name].type
        if expected is float and type(value) is int:
            continue
        # bool is a subclass of int, and True is no patch size.
        plain = isinstance(expected, type) and get_origin(expected) is None
        wrong = plain and not isinstance(value, expected)
        if wrong or (expected is int and isinstance(value, bool)):
            wanted = getattr(expected, "__name__", str(expected))
            raise IsegError(f"{owner}: {name} must be {wanted}, found {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise IsegError(f"{owner}: a field is missing ({error})") from error
