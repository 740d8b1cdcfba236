"""Checksum of what every kernel of a bundle writes, in a whole run: numpy and TVM's runtime.

Where a machine's class map is wrong, the first checksum that differs names the kernel.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from iseg_tvm.runtime import Segmenter

_BUILTIN = "vm.builtin."  # the virtual machine's own functions: allocation, checks
_RUN = 0  # TVM's VMInstrumentReturnKind::kNoOp


def checksum(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and values, row by row."""
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def trace(segmenter: Segmenter, image: npt.NDArray[np.uint8]) -> list[tuple[str, str]]:
    """Run an image; return (kernel, `checksum` of its output) of every kernel, in order.

    Parameters
    ----------
    segmenter : Segmenter
        A loaded bundle.
    image : ndarray, shape (H, W, 3), uint8
        As for `Segmenter.run`.
    """
    found: list[tuple[str, str]] = []

    def observe(_function: Any, name: str, before: bool, _result: Any, *tensors: Any) -> int:
        # A kernel's last argument is the tensor it writes.
        if not before and not name.startswith(_BUILTIN):
            found.append((str(name), checksum(np.from_dlpack(tensors[-1]))))
        return _RUN

    segmenter.set_image(image)
    machine = segmenter.new_machine()
    machine["set_instrument"](segmenter.packed_function(observe))
    segmenter.run_machine(machine)
    return found
