"""A bundle on a board behind TVM RPC: the same methods as `iseg_tvm.board.runner.LocalRunner`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iseg_tvm.board.sensors import Sensors
from iseg_tvm.board.session import BUNDLE_FOLDER
from iseg_tvm.bundle import MANIFEST_NAME, read_bundle
from iseg_tvm.profiling import KernelTime
from iseg_tvm.remote.board import RemoteBoard


class RemoteRunner:
    """A bundle uploaded to a board and loaded there; see `iseg_tvm.board.runner.Runner`.

    Parameters
    ----------
    board : RemoteBoard
        An open session; the caller closes it.
    bundle_dir : path-like
        The bundle, on this machine.
    num_threads : int, optional
        Threads on the board; all of its CPUs if left out.
    exact : bool, optional
        As for `RemoteBoard.check_target`.
    seconds : float, optional
        Longest time for one run.

    Raises
    ------
    IsegError
        The bundle is damaged or does not load on the board.
    BoardError
        The board is another than the bundle's target, or did not stay.
    """

    def __init__(
        self,
        board: RemoteBoard,
        bundle_dir: str | os.PathLike[str],
        num_threads: int | None = None,
        *,
        exact: bool = True,
        seconds: float = 60.0,
    ) -> None:
        bundle = read_bundle(bundle_dir, runnable=False)
        board.check_target(bundle.manifest.target, exact=exact)
        self._board, self._seconds = board, seconds
        self.manifest, self.identity, self.place = bundle.manifest, board.identity, str(board)
        for name in (*bundle.manifest.files, MANIFEST_NAME):
            board.upload(Path(bundle_dir) / name, f"{BUNDLE_FOLDER}/{name}")
        self.threads = int(board.ask("open_bundle", num_threads or 0, seconds=seconds))

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """See `Runner`."""
        content = np.ascontiguousarray(image).tobytes()
        result = self._board.call_global("run", content, seconds=self._seconds)
        return np.frombuffer(result, np.uint8).reshape(self.manifest.output.shape)

    def times(self, repeats: int) -> list[float]:
        """See `Runner`."""
        return list(self._board.ask("times", repeats, seconds=self._seconds * repeats))

    def profile(self, repeats: int) -> list[KernelTime]:
        """See `Runner`."""
        # A run with and one without the callbacks, and as many to warm up.
        seconds = self._seconds * 2 * (repeats + 1)
        return [KernelTime(**row) for row in self._board.ask("profile", repeats, seconds=seconds)]

    def trace(self) -> list[tuple[str, str]]:
        """See `Runner`."""
        rows = self._board.ask("trace", seconds=2 * self._seconds)
        return [(name, checksum) for name, checksum in rows]

    def sensors(self) -> Sensors:
        """See `Runner`."""
        return Sensors(**self._board.ask("sensors"))
