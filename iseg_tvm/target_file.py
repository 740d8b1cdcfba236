"""The format of a target file: which keys there are, and what they may say."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from iseg_tvm.errors import IsegError

ISAS = frozenset(
    {"amx", "avx512vbmi", "avx512vnni", "avx512bw", "avx2", "avxvnni"}
    | {"neon_dotprod", "neon", "neon_inorder", "neon_i8mm", "generic"}
)
ARCHITECTURES = frozenset({"x86_64", "aarch64"})

# For every table of a target file: key -> (type, required).
_SCHEMA: dict[str, dict[str, tuple[type, bool]]] = {
    "": {
        "description": (str, True),
        "aliases": (list, False),
        "tvm": (dict, True),
        "cpu": (dict, True),
        "kernels": (dict, True),
        "rpc": (dict, False),
    },
    "tvm": {
        "kind": (str, True),
        "mtriple": (str, True),
        "mcpu": (str, True),
        "mattr": (list, True),
        "num-cores": (int, True),
    },
    "cpu": {
        "arch": (str, True),
        "features": (list, True),
        "l1d-bytes": (int, True),
        "l2-bytes": (int, True),
        "native-rank": (int, False),
        "native-parts": (list, False),
    },
    "kernels": {"isa": (str, True)},
    "rpc": {"key": (str, True)},
}
_TYPE_NAMES = {
    str: "a string",
    int: "a positive integer",
    list: "a list of strings",
    dict: "a table",
}


def read_target_toml(path: Path) -> dict[str, Any]:
    """Return the checked content of a target file.

    Raises
    ------
    IsegError
        The file is missing or is no TOML, or a key is unknown, missing or has a wrong value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IsegError(f"cannot read the target {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IsegError(f"{path} is not a TOML file: {error}") from error
    _check_table(path, "", content)
    for table in _SCHEMA:
        if table in content:
            _check_table(path, f"{table}.", content[table])
    tvm, cpu, isa = content["tvm"], content["cpu"], content["kernels"]["isa"]
    _check_choice(path, "tvm.kind", tvm["kind"], {"llvm"})
    _check_choice(path, "cpu.arch", cpu["arch"], ARCHITECTURES)
    _check_choice(path, "kernels.isa", isa, ISAS)
    _check_choice(path, "tvm.mtriple", tvm["mtriple"].split("-")[0], {cpu["arch"]})
    for attribute in tvm["mattr"]:
        if attribute[:1] not in {"+", "-"}:
            raise IsegError(f"{path}: tvm.mattr: {attribute!r} does not start with + or -")
    return content


def _check_table(path: Path, prefix: str, values: Mapping[str, Any]) -> None:
    """Refuse unknown keys, missing keys and values of the wrong type."""
    keys = _SCHEMA[prefix.removesuffix(".")]
    for key, value in values.items():
        if key not in keys:
            raise IsegError(f"{path}: unknown key {prefix}{key}", f"known: {', '.join(keys)}")
        kind = keys[key][0]
        right = isinstance(value, kind) and not isinstance(value, bool)
        if kind is int:
            right = right and value > 0
        if kind is list:
            right = right and all(isinstance(item, str) for item in value)
        if not right:
            raise IsegError(f"{path}: {prefix}{key} must be {_TYPE_NAMES[kind]}, not {value!r}")
    for key, (_, required) in keys.items():
        if required and key not in values:
            raise IsegError(f"{path}: the key {prefix}{key} is missing")


def _check_choice(path: Path, key: str, value: str, choices: set[str] | frozenset[str]) -> None:
    if value not in choices:
        raise IsegError(f"{path}: {key}: {value!r} is none of {', '.join(sorted(choices))}")
