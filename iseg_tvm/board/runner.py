"""A loaded bundle that can be run, timed and profiled: here, or on a board by the same methods."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from iseg_tvm.board.identity import BoardIdentity, read_identity
from iseg_tvm.board.sensors import Sensors, read_sensors
from iseg_tvm.bundle import Bundle, Manifest
from iseg_tvm.kernel_trace import trace
from iseg_tvm.profiling import KernelTime, profile
from iseg_tvm.runtime import Segmenter


class Runner(Protocol):
    """What benchmarks and evaluations need of a loaded bundle.

    Attributes
    ----------
    manifest : the bundle's
    identity : the machine it runs on
    threads : threads in use
    place : where that is, for people
    """

    manifest: Manifest
    identity: BoardIdentity
    threads: int
    place: str

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 image (H, W, 3) to uint8 class map (H, W)."""
        ...

    def times(self, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` runs on the image of the last `run`."""
        ...

    def profile(self, repeats: int) -> list[KernelTime]:
        """Time of every kernel inside whole runs on the image of the last `run`."""
        ...

    def trace(self) -> list[tuple[str, str]]:
        """(kernel, checksum of its output) of a run on the image of the last `run`."""
        ...

    def sensors(self) -> Sensors:
        """Temperature, clock and memory now."""
        ...


class LocalRunner:
    """A bundle on this machine; see `Runner`.

    Parameters
    ----------
    bundle : Bundle
        The bundle to load.
    num_threads : int, optional
        As for `Segmenter`.

    Raises
    ------
    IsegError
        As `Segmenter`.
    """

    def __init__(self, bundle: Bundle, num_threads: int | None = None) -> None:
        self._segmenter = Segmenter(bundle, num_threads)
        self.manifest = bundle.manifest
        self.identity = read_identity()
        self.threads = self._segmenter.num_threads
        self.place = self.identity.name
        self._image = np.zeros(self.manifest.input.shape, np.uint8)

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See `Runner`."""
        self._image = image
        return self._segmenter.run(image)

    def times(self, repeats: int) -> list[float]:
        """See `Runner`."""
        return self._segmenter.run_timed(self._image, repeats, warmup=0)[1]

    def profile(self, repeats: int) -> list[KernelTime]:
        """See `Runner`."""
        return list(profile(self._segmenter, self._image, repeats).kernels)

    def trace(self) -> list[tuple[str, str]]:
        """See `Runner`."""
        return trace(self._segmenter, self._image)

    def sensors(self) -> Sensors:
        """See `Runner`."""
        return read_sensors()
