"""One TVM RPC session that cannot hang: every call has a deadline, every error a name."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from iseg_tvm.board.server import CRASHED, TIMED_OUT
from iseg_tvm.network import Address, keep_alive
from iseg_tvm.remote.errors import (
    BoardError,
    BoardLost,
    BoardTimeout,
    NoBoard,
    RemoteCallFailed,
    SessionCrashed,
)

Result = TypeVar("Result")

_CONNECT_SECONDS = 30.0  # an emulated board needs a few to fork
_CRASH = re.compile(re.escape(CRASHED) + r" (\S+)")
# How TVM's client reports that the other side has gone.
_BROKEN = re.compile(r"kShutdown|kReturn|Socket|SockChannel|[Cc]onnection|Broken pipe|Recv|EOF")
_ILLEGAL = "SIGILL"


def import_rpc() -> Any:
    """Return ``tvm.rpc``, without torch, which ``import tvm`` loads where it is installed."""
    if "tvm" in sys.modules or "torch" in sys.modules:
        import tvm.rpc

        return tvm.rpc
    from iseg_tvm.runtime import without_torch

    with without_torch():
        import tvm.rpc

        return tvm.rpc


class Connection:
    """A session on a board.

    Parameters
    ----------
    address : Address
        Where the board's server listens.
    match_key : str
        What it expects: the tracker's one-time key, or the server's own.
    session_seconds : float, optional
        After this the board ends the session.

    Attributes
    ----------
    session : tvm.rpc.RPCSession
        TVM's own session, for code of TVM that wants one (MetaSchedule).

    Raises
    ------
    NoBoard
        No server answers there, or it expects another key.
    """

    def __init__(
        self, address: Address, match_key: str, session_seconds: float | None = None
    ) -> None:
        self.address = address
        self._lost: BoardError | None = None
        rpc = import_rpc()
        peer = _probe(address)
        before = {inode for _, inode in _sockets()}

        def connect() -> Any:
            return rpc.connect(address.host, address.port, match_key, session_seconds or 0)

        try:
            self.session = _in_thread(connect, _CONNECT_SECONDS)
        except TimeoutError as error:
            raise NoBoard(
                f"the board at {address} is busy: no session within {_CONNECT_SECONDS:g} s",
                "wait for the other session to end, or end it",
            ) from error
        except (RuntimeError, OSError) as error:
            if "matches key" in str(error):
                raise NoBoard(
                    f"the board at {address} was started with another key than {match_key!r}",
                    "give its --key",
                ) from error
            raise NoBoard(f"no session with {address}: {_first_line(error)}") from error
        self._socket = _own_socket(before, peer)

    def close(self) -> None:
        """End the session; the board becomes free."""
        self._lost = self._lost or BoardLost(f"the session with {self.address} was closed")
        self.session = None
        if self._socket is not None:
            # TVM's client closes only when its last tensor is collected.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    @contextmanager
    def guard(self, what: str, seconds: float | None) -> Iterator[None]:
        """Run remote calls in the body: after `seconds` they end, and their errors get names.

        Parameters
        ----------
        what : str
            What is done, for messages: ``"loading model.so"``.
        seconds : float, optional
            Longest time; no limit if left out.

        Raises
        ------
        SessionCrashed, BoardLost, BoardTimeout
            The session is over.
        RemoteCallFailed
            The function raised an exception; the session lives on.
        """
        if self._lost is not None:
            raise self._lost
        late = threading.Event()

        def give_up() -> None:
            late.set()
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

        timer = None if seconds is None else threading.Timer(seconds, give_up)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield
        except BoardError:
            raise
        except (RuntimeError, OSError, ValueError, TypeError, AttributeError) as error:
            raise self._named(what, error, late.is_set(), seconds) from error
        finally:
            if timer is not None:
                timer.cancel()

    def _named(
        self, what: str, error: Exception, late: bool, seconds: float | None
    ) -> BoardError:
        """Turn TVM's exception into ours."""
        text, where = str(error), f"board {self.address}"
        crash = _CRASH.search(text)
        if late or TIMED_OUT in text:
            limit = f" after {seconds:g} s" if late else ", the session's time is over"
            self._lost = BoardTimeout(
                f"{what}: no answer from the {where}{limit}", "raise the timeout, or look at it"
            )
        elif crash is not None:
            self._lost = _crashed(what, where, crash[1])
        elif _BROKEN.search(text):
            self._lost = BoardLost(
                f"{what}: the {where} has vanished", "check its power, network and rpc_server"
            )
        else:
            return RemoteCallFailed(f"{what} failed on the {where}: {_first_line(error)}")
        return self._lost


def _crashed(what: str, where: str, cause: str) -> SessionCrashed:
    if cause == _ILLEGAL:
        return SessionCrashed(
            f"{what}: illegal instruction ({cause}) on the {where}",
            "the code is for another CPU: compile it for this board's",
            cause,
        )
    return SessionCrashed(
        f"{what}: the session's process on the {where} died of {cause}",
        "the board's server lives on; its log says more",
        cause,
    )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)


def _in_thread(function: Callable[[], Result], seconds: float) -> Result:
    """Run a call that cannot be interrupted; leave it behind after `seconds`."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _sockets() -> list[tuple[int, int]]:
    """(descriptor, inode) of this process's open sockets."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError, ValueError):
            status = os.fstat(int(entry.name))
            if stat.S_ISSOCK(status.st_mode):
                found.append((int(entry.name), status.st_ino))
    return found


def _probe(address: Address) -> Any:
    """Return the socket address of a server that accepts connections.

    Raises
    ------
    NoBoard
        None does.
    """
    try:
        with socket.create_connection((address.host, address.port), _CONNECT_SECONDS) as probe:
            return probe.getpeername()
    except OSError as error:
        raise NoBoard(
            f"no board answers at {address}: {error.strerror or error}",
            "is its rpc_server running, and does it listen on that address?",
        ) from error


def _own_socket(before: set[int], peer: Any) -> socket.socket | None:
    """TVM keeps its socket to itself; a duplicate lets us set options and shut it down."""
    for descriptor, inode in _sockets():
        if inode in before:
            continue
        found = socket.socket(fileno=os.dup(descriptor))
        with suppress(OSError):
            if found.getpeername() == peer:
                keep_alive(found)
                return found
        found.close()
    return None
