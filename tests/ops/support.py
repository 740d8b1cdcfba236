"""What the operators' tests share: comparing all forms of an operator, inputs, rejections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch._subclasses.fake_tensor import FakeTensorMode

from relay_ops import OPERATORS, OperatorError, TensorSpec
from tests.ops import scalar_model

torch.set_num_threads(1)

PATTERNS = ("lowest", "highest", "zeros", "one_hot", "alternating", "random")

few = settings(deadline=None, max_examples=40, derandomize=True)
"""Settings of every hypothesis test: bounded, and the same examples on every machine."""


def run_torch(
    name: str, tensors: Sequence[np.ndarray], attributes: Mapping[str, Any]
) -> np.ndarray:
    """Apply ``torch.ops.iseg.<name>``."""
    given = [torch.from_numpy(np.ascontiguousarray(t)) for t in tensors]
    ordered = [attributes[a] for a in OPERATORS[name].attributes]
    return getattr(torch.ops.iseg, name)(*given, *ordered).numpy()


Form = Callable[[str, Sequence[np.ndarray], Mapping[str, Any]], np.ndarray]
FORMS: dict[str, Form] = {"torch": run_torch}
"""Implementations that must give the reference's bits."""


def agree(name: str, *tensors: np.ndarray, **attributes: Any) -> np.ndarray:
    """Return the reference's result after comparing every other form, dtype and shape included."""
    operator = OPERATORS[name]
    expected = operator.reference(*tensors, **attributes)
    spec = operator.infer_types([_spec(t) for t in tensors], attributes)
    assert (expected.shape, expected.dtype.name) == (spec.shape, spec.dtype)
    for form, run in FORMS.items():
        got = run(name, tensors, attributes)
        assert got.dtype == expected.dtype, form
        np.testing.assert_array_equal(got, expected, err_msg=form)
    return expected


def agree_with_scalars(name: str, *tensors: np.ndarray, **attributes: Any) -> np.ndarray:
    """`agree`, and compare the reference with the independent scalar model too."""
    result = agree(name, *tensors, **attributes)
    scalar = scalar_model.run(name, *[t.tolist() for t in tensors], **attributes)
    assert result.tolist() == scalar
    return result


def rejects(
    name: str, tensors: Sequence[np.ndarray], attributes: Mapping[str, Any], *words: str
) -> None:
    """Assert that real, fake and meta tensors are all refused with the same readable message."""
    specs = [_spec(t) for t in tensors]
    with pytest.raises(OperatorError) as caught:
        OPERATORS[name].infer_types(specs, attributes)
    message = str(caught.value)
    assert message.startswith(f"iseg.{name}({', '.join(str(s) for s in specs)}): ")
    assert "\n" not in message
    for word in words:
        assert word in message
    function = getattr(torch.ops.iseg, name)
    ordered = [attributes[a] for a in OPERATORS[name].attributes]
    kinds = [(s.shape, getattr(torch, s.dtype)) for s in specs]
    real = [torch.from_numpy(np.ascontiguousarray(t)) for t in tensors]
    with FakeTensorMode():
        fake = [torch.empty(shape, dtype=dtype) for shape, dtype in kinds]
    meta = [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in kinds]
    for given in (real, fake, meta):
        with pytest.raises(OperatorError) as caught:
            function(*given, *ordered)
        assert str(caught.value) == message


def _spec(tensor: np.ndarray) -> TensorSpec:
    return TensorSpec(tuple(tensor.shape), tensor.dtype.name)


def integers(
    seed: int, dtype: str, *shape: int, low: int | None = None, high: int | None = None
) -> np.ndarray:
    """Uniform integers of the whole type, or in the closed range ``[low, high]``."""
    info = np.iinfo(dtype)
    low, high = info.min if low is None else low, info.max if high is None else high
    return np.random.default_rng(seed).integers(low, high, shape, dtype, endpoint=True)


def filled(pattern: str, dtype: str, *shape: int, low: int | None = None) -> np.ndarray:
    """An array of one of `PATTERNS`; ``low`` replaces the type's minimum."""
    info = np.iinfo(dtype)
    lowest = info.min if low is None else low
    flat = np.zeros(int(np.prod(shape)), dtype)
    if pattern == "lowest":
        flat[:] = lowest
    elif pattern == "highest":
        flat[:] = info.max
    elif pattern == "one_hot":
        flat[len(flat) // 2] = info.max
    elif pattern == "alternating":
        flat[::2], flat[1::2] = lowest, info.max
    elif pattern == "random":
        flat[:] = integers(len(flat), dtype, len(flat), low=lowest)
    return flat.reshape(shape)


def multipliers(seed: int, *shape: int) -> np.ndarray:
    """Normalised dyadic mantissas, int16."""
    return integers(seed, "int16", *shape, low=2**14)
