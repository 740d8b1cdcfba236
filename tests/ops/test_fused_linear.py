"""Fused operators are their parts applied one after the other."""

import numpy as np
import pytest

from relay_ops import OPERATORS
from relay_ops.fused_linear import STEPS
from relay_ops.operator import OperatorError, TensorSpec
from tests.ops.support import agree, integers, multipliers

ROWS, INNER, COLUMNS = 6, 12, 70
IMAGE = (5, 3, 3)  # height, width, channels: 6 patches of 2 x 2 pixels

TENSORS = {
    "x": integers(1, "int8", ROWS, INNER),
    "a": integers(2, "int8", ROWS, INNER),
    "b": integers(3, "int8", COLUMNS, INNER),
    "image": integers(4, "uint8", *IMAGE),
    "weight": integers(5, "int8", COLUMNS, INNER, low=-127),
    "bias": integers(6, "int32", COLUMNS, low=-(2**16), high=2**16),
    "multiplier": multipliers(7, COLUMNS),
    "shift": integers(8, "int8", COLUMNS, low=0, high=9),
    "table": integers(9, "int8", 2, 256),
    "skip": integers(10, "int16", ROWS, COLUMNS),
    "gamma": integers(11, "int16", INNER, low=-32767),
    "beta": integers(12, "int32", INNER, low=-(2**20), high=2**20),
}
ATTRIBUTES = {
    "post_shift": 3, "dtype": "int8", "skip_shift": 2, "patch": 2, "pad": [9, 128, 255],
    "eps": 77, "norm_shift": 20,
}  # fmt: skip


def tensors_of(name: str) -> dict[str, np.ndarray]:
    """A chain that starts with a LayerNorm takes an int16 x."""
    if "gamma" not in OPERATORS[name].tensors:
        return TENSORS
    return {**TENSORS, "x": integers(13, "int16", ROWS, INNER)}


def arguments(name: str) -> tuple[list[np.ndarray], dict[str, object]]:
    operator, tensors = OPERATORS[name], tensors_of(name)
    return [tensors[t] for t in operator.tensors], {a: ATTRIBUTES[a] for a in operator.attributes}


@pytest.mark.parametrize("name", STEPS)
def test_equals_its_parts(name: str) -> None:
    tensors, attributes = arguments(name)
    value = None
    for step in STEPS[name]:
        parts = [tensors_of(name)[t] if t else value for t in step.tensors]
        known = {own: attributes[given] for given, own in step.attributes.items()}
        value = agree(step.operator.name, *parts, **known, **step.fixed)
    np.testing.assert_array_equal(agree(name, *tensors, **attributes), value)


@pytest.mark.parametrize("name", STEPS)
def test_rejects_what_its_parts_reject(name: str) -> None:
    tensors, attributes = arguments(name)
    specs = [TensorSpec(t.shape, t.dtype.name) for t in tensors]
    for index, spec in enumerate(specs):
        wrong = [*specs]
        wrong[index] = TensorSpec(spec.shape, "float32")
        with pytest.raises(OperatorError, match=rf"iseg\.{name}\(.*: '\w+' must be .*float32"):
            OPERATORS[name].infer_types(wrong, attributes)
