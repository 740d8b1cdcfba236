"""The LayerNorm kernel equals the operator's reference, edges included."""

from __future__ import annotations

import numpy as np
import pytest

from iseg_tvm.kernels.isa import Isa
from tests.kernels.harness import compare
from tests.kernels.test_gemm import every_isa
from tests.ops.support import filled, integers


@every_isa
@pytest.mark.parametrize(
    ("rows", "width", "center", "dtype", "shift", "eps"),
    [
        (5, 1, True, "int8", 20, 1),
        (5, 3, True, "int8", 20, 1),
        (17, 150, True, "int32", 0, 777),
        (37, 192, False, "int8", 0, 2**40),
        (20, 1024, True, "int8", 24, 1),
    ],
)
def test_shapes(
    isa: Isa, target: str, rows: int, width: int, center: bool, dtype: str, shift: int, eps: int
) -> None:
    constants = {
        "gamma": integers(1, "int16", width, low=-32767),
        "beta": integers(2, "int32", width, low=-(2**29), high=2**29),
    }
    patterns = ("random", "lowest", "highest", "zeros", "one_hot", "alternating")
    inputs = [filled(p, "int16", rows, width) for p in patterns]
    inputs.append((inputs[0] // 3000).astype(np.int16))
    compare(
        "layer_norm", isa, target, [{**constants, "x": x} for x in inputs],
        eps=eps, shift=shift, center=center, dtype=dtype,
    )  # fmt: skip
