"""A board behind TVM RPC: what it is, files and libraries on it, calls and their times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm.board.identity import BoardIdentity, core_names
from iseg_tvm.board.session import PREFIX
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import check_host
from iseg_tvm.network import Address
from iseg_tvm.remote.connection import Connection, import_rpc
from iseg_tvm.remote.errors import NoBoard, RemoteCallFailed, WrongBoard
from iseg_tvm.remote.tracker import TrackerClient
from iseg_tvm.targets import TargetSpec

_UPLOAD_SECONDS = 120.0
_CALL_SECONDS = 60.0
_WAIT_SECONDS = 60.0


class RemoteBoard:
    """A session on one board, alone on it until closed; use it in a ``with`` statement.

    Made by `connect_tracker` or `connect_direct`.

    Attributes
    ----------
    identity : BoardIdentity
        What the board says about itself.
    connection : Connection
        For calls of one's own under ``connection.guard``; ``connection.session`` is TVM's.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        try:
            self.identity = BoardIdentity.from_dict(self.ask("identity"))
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> RemoteBoard:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def __str__(self) -> str:
        """Return name and address."""
        return f"{self.identity.name} at {self.connection.address}"

    def close(self) -> None:
        """End the session; the board becomes free for others."""
        self.connection.close()

    def check_target(self, target: TargetSpec, *, exact: bool = True) -> None:
        """Refuse a board that is not what `target` is for, before anything runs on it.

        Parameters
        ----------
        target : TargetSpec
            What the code is compiled for.
        exact : bool, optional
            Also refuse a CPU that could run the code, but is not the target's own: times
            measured there would pass for another board's.

        Raises
        ------
        WrongBoard
            Another architecture, a missing feature, or another CPU.
        """
        cpu = self.identity.cpu
        try:
            check_host(target.arch, target.features, what=f"code for {target.name}", host=cpu)
        except IsegError as error:
            reason = error.message.replace("this machine", f"the board ({self})")
            raise WrongBoard(reason, "check the board's key, or name its target") from error
        own = frozenset(target.native_parts)
        if exact and own and not cpu.parts <= own:
            raise WrongBoard(
                f"the board ({self}) has {core_names(cpu.parts) or 'another CPU'}, and the target "
                f"{target.name} is {core_names(own)}",
                "check the board's key, or name its target",
            )

    def ask(self, function: str, *arguments: Any, seconds: float | None = _CALL_SECONDS) -> Any:
        """Call a function of `iseg_tvm.board.session` that answers in JSON.

        Raises
        ------
        IsegError
            The board's own refusal, or as `Connection.guard`.
        """
        answer = json.loads(self.call_global(function, *arguments, seconds=seconds))
        if "error" in answer:
            raise IsegError(answer["error"], answer["hint"])
        return answer["value"]

    def call_global(
        self, function: str, *arguments: Any, seconds: float | None = _CALL_SECONDS
    ) -> Any:
        """Call a function of `iseg_tvm.board.session`; return what it returns.

        Raises
        ------
        BoardError
            See `Connection.guard`.
        """
        with self.connection.guard(function.replace("_", " "), seconds):
            return self.connection.session.get_function(PREFIX + function)(*arguments)

    def upload(self, path: Path, name: str | None = None) -> str:
        """Copy a file to the session's folder on the board; return its name there.

        Raises
        ------
        IsegError
            The file cannot be read, or as `Connection.guard`.
        """
        try:
            content = bytearray(Path(path).read_bytes())
        except OSError as error:
            raise IsegError(f"cannot read {path}: {error.strerror or error}") from error
        name = name or Path(path).name
        with self.connection.guard(f"uploading {name}", _UPLOAD_SECONDS):
            self.connection.session.upload(content, name)
        return name

    def load(self, path: Path) -> Any:
        """Upload a library and load it; return TVM's remote module.

        Raises
        ------
        BoardError
            See `Connection.guard`.
        """
        name = self.upload(path)
        with self.connection.guard(f"loading {name}", _CALL_SECONDS):
            return self.connection.session.load_module(name)

    def tensor(self, array: np.ndarray) -> Any:
        """Copy an array to the board; return TVM's remote tensor."""
        import_rpc()
        from tvm.runtime import tensor

        with self.connection.guard("copying a tensor", _UPLOAD_SECONDS):
            return tensor(array, self.connection.session.cpu())

    def numpy(self, tensor: Any) -> np.ndarray:
        """Copy a remote tensor back."""
        with self.connection.guard("copying a tensor back", _UPLOAD_SECONDS):
            return np.asarray(tensor.numpy())

    def call(
        self, module: Any, function: str, tensors: Sequence[Any], seconds: float = _CALL_SECONDS
    ) -> None:
        """Call a function of a remote module on remote tensors.

        Raises
        ------
        BoardError
            See `Connection.guard`.
        """
        with self.connection.guard(f"calling {function}", seconds):
            module[function](*tensors)

    def time(
        self,
        module: Any,
        function: str,
        tensors: Sequence[Any],
        *,
        number: int = 1,
        repeat: int = 3,
        min_repeat_ms: int = 0,
        cache_flush_bytes: int = 0,
        seconds: float = _CALL_SECONDS,
    ) -> list[float]:
        """Time a call on the board itself; return the seconds a call of each repeat.

        Parameters
        ----------
        module, function, tensors : as for `call`
        number, repeat, min_repeat_ms, cache_flush_bytes : int
            As for ``tvm.runtime.Module.time_evaluator``: a repeat is the mean of `number` calls,
            or of as many as `min_repeat_ms` takes.
        seconds : float
            Longest time for all together.

        Raises
        ------
        BoardError
            See `Connection.guard`.
        """
        with self.connection.guard(f"timing {function}", seconds):
            evaluate = module.time_evaluator(
                function, self.connection.session.cpu(), number=number, repeat=repeat,
                min_repeat_ms=min_repeat_ms, cache_flush_bytes=cache_flush_bytes,
            )  # fmt: skip
            return [float(value) for value in evaluate(*tensors).results]


def connect_tracker(
    tracker: Address,
    key: str,
    *,
    wait_seconds: float = _WAIT_SECONDS,
    session_seconds: float | None = None,
) -> RemoteBoard:
    """Get a board of that key from a tracker.

    Parameters
    ----------
    tracker : Address
        Where the tracker listens.
    key : str
        Kind of board.
    wait_seconds : float, optional
        How long to wait for a free one.
    session_seconds : float, optional
        After this the board ends the session by itself.

    Raises
    ------
    TrackerUnreachable, NoBoard, BoardError
        See `iseg_tvm.remote.errors`.
    """
    with TrackerClient(tracker) as client:
        address, match_key = client.request(key, wait_seconds)
        return _open(Connection(address, match_key, session_seconds))


def connect_direct(
    address: Address, key: str, *, session_seconds: float | None = None
) -> RemoteBoard:
    """Connect to a board's own server.

    Parameters
    ----------
    address : Address
        Where the server listens.
    key : str
        The key it was started with.
    session_seconds : float, optional
        After this the board ends the session by itself.

    Raises
    ------
    NoBoard, BoardError
        See `iseg_tvm.remote.errors`.
    """
    return _open(Connection(address, key, session_seconds))


def _open(connection: Connection) -> RemoteBoard:
    try:
        return RemoteBoard(connection)
    except RemoteCallFailed as error:
        raise NoBoard(
            f"the server at {connection.address} is not iseg-tvm's ({error.message})",
            "start the board with python -m iseg_tvm.rpc_server",
        ) from error
