"""Row slices and row concatenation, parallel over rows: copies, any integer dtype."""

from __future__ import annotations

from iseg_tvm.kernels.vector import PrimFunc, T, kernel
from relay_ops.operator import TensorSpec


def slice_kernel(source: TensorSpec, start: int, stop: int) -> PrimFunc:
    """``result = source[start:stop]``."""
    columns = source.shape[1]
    parameters = [
        ("source", source.shape, source.dtype),
        ("result", (stop - start, columns), source.dtype),
    ]
    with (
        kernel("slice_rows", parameters) as (builder, (x, result)),
        T.parallel(stop - start) as i,
        T.serial(columns) as j,
    ):
        T.buffer_store(result, x[start + i, j], [i, j])
    return builder.get()


def concatenate_kernel(first: TensorSpec, second: TensorSpec) -> PrimFunc:
    """``result = [first; second]``: two tensors of the same dtype and number of columns."""
    columns, offset = first.shape[1], first.shape[0]
    parameters = [
        ("first", first.shape, first.dtype),
        ("second", second.shape, first.dtype),
        ("result", (offset + second.shape[0], columns), first.dtype),
    ]
    with kernel("concatenate_rows", parameters) as (builder, (top, bottom, result)):
        with T.parallel(offset) as i, T.serial(columns) as j:
            T.buffer_store(result, top[i, j], [i, j])
        with T.parallel(second.shape[0]) as i, T.serial(columns) as j:
            T.buffer_store(result, bottom[i, j], [offset + i, j])
    return builder.get()
