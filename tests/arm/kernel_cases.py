"""Every kernel test of ``tests/kernels``, taken over for another machine.

Those tests call ``compare(operator, isa, target, cases, **attributes)``. Here ``compare`` only
notes what it was given, so that a case added there is run on the emulated boards too.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from tests.kernels import test_attention, test_elementwise, test_gemm, test_layer_norm

MODULES = [test_gemm, test_attention, test_layer_norm, test_elementwise]
FAMILIES = [module.__name__.rpartition(".test_")[2] for module in MODULES]


@dataclass(frozen=True)
class KernelCase:
    """One kernel: an operator on constants and several sets of activations."""

    name: str
    operator: str
    tensors: list[dict[str, np.ndarray]]
    attributes: dict[str, Any]


def collect() -> list[KernelCase]:
    """Return all cases; their names start with the family's."""
    found: list[KernelCase] = []
    for family, module in zip(FAMILIES, MODULES, strict=True):

        def note(
            operator: str, isa: Any, target: str, cases: list[dict[str, np.ndarray]],
            *, _family: str = family, **given: Any,
        ) -> None:  # fmt: skip
            name = f"{_family}_{len(found)}_{operator}"
            tensors = [{n: t.copy() for n, t in case.items()} for case in cases]
            found.append(KernelCase(name, operator, tensors, given))

        with mock.patch.object(module, "compare", note):
            for call in _calls(module):
                call()
    return found


def _calls(module: ModuleType) -> Iterator[Callable[[], None]]:
    """Every parametrization of the test functions that call ``compare``."""
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if not name.startswith("test_") or "compare" not in function.__code__.co_names:
            continue
        marks = [mark.args for mark in getattr(function, "pytestmark", [])]
        choices = [_choices(*arguments[:2]) for arguments in marks]
        for chosen in itertools.product(*choices):
            arguments = {key: value for choice in chosen for key, value in choice.items()}
            yield lambda f=function, a=arguments: f(**a)


def _choices(names: str | tuple[str, ...], values: list[Any]) -> list[dict[str, Any]]:
    """Arguments of one ``parametrize`` mark; which ISA is decided later, so one is enough."""
    if isinstance(names, str):
        return [{names: value} for value in values]
    if "isa" in names:
        values = values[:1]
    return [dict(zip(names, value, strict=True)) for value in values]
