"""The weights of a library as read-only data that the loader maps, in the form TVM takes as it is.

An assembly file includes the tensors' bytes and lays a table of ``DLManagedTensor`` records over
them (DLPack, ``dlpack/dlpack.h``, 64-bit), whose pointers the dynamic loader fills in. A program
hands each record to TVM's ``TVMFFITensorFromDLPack``: nothing is copied, processes share the pages,
and those of layers that are not in use may leave the memory. Symbols: ``iseg_weights``, the table,
and ``iseg_weight_count``, an int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

ALIGNMENT = 64
"""What TVM's generated code assumes of every tensor."""

_CODES = {"i": 0, "u": 1}
"""DLDataTypeCode by NumPy's kind."""

_RECORD = """\
    .quad iseg_data + {offset}
    .long 1, 0, {ndim}
    .byte {code}, {bits}
    .short 1
    .quad iseg_shapes + {shape}, 0, 0, 0, 0
"""
"""data; device (kDLCPU, 0), ndim; dtype; shape, strides, byte_offset, manager_ctx, deleter."""

_HEAD = """\
    .section .data.rel.ro, "aw"
    .balign 8
    .globl iseg_weights, iseg_weight_count
iseg_weight_count:
    .quad {count}
iseg_weights:
"""

_TAIL = """\
    .section .rodata
    .balign 8
iseg_shapes:
{shapes}
    .balign {alignment}
iseg_data:
    .incbin "{data}"
    .section .note.GNU-stack, "", %progbits
"""


def write_assembly(tensors: Sequence[np.ndarray], folder: Path) -> Path:
    """Write ``weights.S`` and the file it includes; return the former.

    Parameters
    ----------
    tensors : integer arrays, in the order of the table
    folder : where both files go; the assembly names its data by this path
    """
    data, assembly = folder / "weights.bin", folder / "weights.S"
    shapes: list[int] = []
    with data.open("wb") as stream, assembly.open("w", encoding="utf-8") as text:
        text.write(_HEAD.format(count=len(tensors)))
        for tensor in tensors:
            text.write(
                _RECORD.format(
                    offset=_append(stream, tensor),
                    ndim=tensor.ndim,
                    code=_CODES[tensor.dtype.kind],
                    bits=8 * tensor.dtype.itemsize,
                    shape=8 * len(shapes),
                )
            )
            shapes += tensor.shape
        lines = "\n".join(f"    .quad {size}" for size in shapes)
        text.write(_TAIL.format(shapes=lines, alignment=ALIGNMENT, data=data))
    return assembly


def _append(stream: IO[bytes], tensor: np.ndarray) -> int:
    """Append a tensor at the next multiple of the alignment; return where."""
    stream.write(bytes(-stream.tell() % ALIGNMENT))
    offset = stream.tell()
    stream.write(np.ascontiguousarray(tensor).tobytes())
    return offset
