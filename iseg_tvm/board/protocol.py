"""The server's side of TVM's RPC handshakes, without ``import tvm``.

The framing and the codes are TVM's own: ``tvm/rpc/base.py`` imports nothing of TVM, so that file
alone is loaded, and always fits the installed runtime.
"""

import functools
import importlib.util
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from iseg_tvm.errors import IsegError
from iseg_tvm.network import Address, keep_alive

_HANDSHAKE_SECONDS = 10.0
_MAX_KEY_BYTES = 4096


@functools.cache
def tvm_protocol() -> ModuleType:
    """Return TVM's ``rpc/base.py`` as a module.

    Raises
    ------
    IsegError
        TVM is not installed.
    """
    package = importlib.util.find_spec("tvm")
    if package is None or not package.submodule_search_locations:
        raise IsegError("TVM is not installed (no package tvm)", "pip install iseg-tvm")
    path = Path(package.submodule_search_locations[0]) / "rpc/base.py"
    spec = importlib.util.spec_from_file_location("iseg_tvm_rpc_base", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Client:
    """A client that has been accepted, and how long its session may last."""

    connection: socket.socket
    peer: str
    timeout_seconds: float | None


class TrackerLink:
    """The server's connection to a tracker, where it offers itself under a key.

    Parameters
    ----------
    tracker : Address
        Where the tracker listens.
    key : str
        Name of the kind of board.
    port : int
        Where this server listens.
    reported_host : str or None
        Address clients are told to connect to; None for the one the tracker sees.

    Raises
    ------
    OSError
        The tracker cannot be reached, or something else listens there.
    """

    def __init__(self, tracker: Address, key: str, port: int, reported_host: str | None) -> None:
        self._base = tvm_protocol()
        self._key, self._port, self._host = key, port, reported_host
        self._used: set[str] = set()
        self.match_key = ""
        self._misses = 0
        self._socket = socket.create_connection(
            (tracker.host, tracker.port), timeout=_HANDSHAKE_SECONDS
        )
        try:
            magic = struct.pack("<i", self._base.RPC_TRACKER_MAGIC)
            self._socket.sendall(magic)
            if self._base.recvall(self._socket, 4) != magic:
                raise ConnectionError(f"{tracker} is not a TVM RPC tracker")
            info = {"key": f"server:{key}", "addr": (reported_host, port)}
            self._ask([self._base.TrackerCode.UPDATE_INFO, info])
        except BaseException:
            self._socket.close()
            raise

    def offer(self) -> None:
        """Offer this server for one more session."""
        self.match_key = self._base.random_key(self._key, cmap=self._used)
        self._used = {self.match_key}
        self._misses = 0
        code = self._base.TrackerCode.PUT
        self._ask([code, self._key, (self._port, self.match_key), self._host])

    def refresh(self) -> None:
        """Offer again if a client has taken the offer, and in two calls has not come."""
        pending = self._ask([self._base.TrackerCode.GET_PENDING_MATCHKEYS])
        self._misses = 0 if self.match_key in pending else self._misses + 1
        if self._misses > 2:
            self.offer()

    def close(self) -> None:
        """Withdraw from the tracker."""
        self._socket.close()

    def _ask(self, message: list[Any]) -> Any:
        self._base.sendjson(self._socket, message)
        return self._base.recvjson(self._socket)


def accept(listener: socket.socket, match_key: str, key: str) -> Client | None:
    """Accept a client that has connected and check its key; None if it is turned away.

    Parameters
    ----------
    listener : socket
        Listening socket on which a connection waits.
    match_key : str
        What the client must name: the tracker's one-time key, else the server's own.
    key : str
        The server's key, told to the client.
    """
    base = tvm_protocol()
    connection, address = listener.accept()
    try:
        connection.settimeout(_HANDSHAKE_SECONDS)
        if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_MAGIC:
            raise ConnectionError("not an RPC client")
        length = struct.unpack("<i", base.recvall(connection, 4))[0]
        if not 0 < length <= _MAX_KEY_BYTES:
            raise ConnectionError("no key")
        given, *options = base.recvall(connection, length).decode("utf-8").split()
        if given != f"client:{match_key}":
            connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
            raise ConnectionError("another key")
        name = f"server:{key}".encode()
        connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(name)) + name)
        connection.settimeout(None)
        keep_alive(connection)
        return Client(connection, address[0], _timeout(options))
    except (OSError, ValueError):
        connection.close()
        return None


def hung_up(connection: socket.socket, seconds: float) -> bool:
    """Wait up to `seconds`; return whether the other side has closed the connection."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))


def _timeout(options: list[str]) -> float | None:
    """Return the seconds of TVM's ``-timeout=`` option."""
    for option in options:
        if option.startswith("-timeout="):
            return float(option.removeprefix("-timeout=")) or None
    return None
