"""The tracker: asking one for a board, and running one."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from typing import Any

from iseg_tvm.network import Address
from iseg_tvm.remote.errors import NoBoard, TrackerUnreachable

_CONNECT_SECONDS = 10.0


class TrackerClient:
    """A connection to a tracker.

    Parameters
    ----------
    address : Address
        Where the tracker listens.

    Raises
    ------
    TrackerUnreachable
        Nothing answers there, or it is no tracker.
    """

    def __init__(self, address: Address) -> None:
        from tvm.rpc import base

        self._base, self.address = base, address
        try:
            self._socket = socket.create_connection(
                (address.host, address.port), timeout=_CONNECT_SECONDS
            )
        except OSError as error:
            raise TrackerUnreachable(
                f"no tracker answers at {address}: {error.strerror or error}",
                f"start one: python -m iseg_tvm.rpc_tracker --port {address.port}",
            ) from error
        magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
        try:
            self._socket.sendall(magic)
            if base.recvall(self._socket, 4) != magic:
                raise ConnectionError("another answer")
        except OSError as error:
            self._socket.close()
            raise TrackerUnreachable(
                f"what listens at {address} is no TVM RPC tracker",
                "--tracker takes the tracker's address, --rpc a board's own",
            ) from error

    def __enter__(self) -> TrackerClient:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._socket.close()

    def boards(self) -> Counter[str]:
        """Return how many boards are registered under each key, busy ones included."""
        status = self._ask([self._base.TrackerCode.SUMMARY], _CONNECT_SECONDS)
        keys = (info["key"].partition(":")[2] for info in status["server_info"])
        return Counter(keys)

    def request(self, key: str, wait_seconds: float, priority: int = 1) -> tuple[Address, str]:
        """Wait for a free board; return its address and the key of this one session.

        Raises
        ------
        NoBoard
            None is registered under the key, or none became free in time.
        TrackerUnreachable
            The tracker went away.
        """
        known = self.boards()
        if not known[key]:
            others = ", ".join(f"{name} ({known[name]})" for name in sorted(known)) or "none"
            raise NoBoard(
                f"no board is registered under the key {key!r} at the tracker {self.address}",
                f"registered: {others}; on the board: python -m iseg_tvm.rpc_server "
                f"--tracker {self.address} --key {key}",
            )
        try:
            found = self._ask([self._base.TrackerCode.REQUEST, key, "", priority], wait_seconds)
        except TimeoutError as error:
            raise NoBoard(
                f"no board under the key {key!r} became free in {wait_seconds:g} s "
                f"({known[key]} registered)",
                "wait for the other session to end, or end it",
            ) from error
        return Address(found[0], int(found[1])), str(found[2])

    def _ask(self, message: list[Any], seconds: float) -> Any:
        self._socket.settimeout(seconds)
        try:
            self._base.sendjson(self._socket, message)
            code, value = self._base.recvjson(self._socket)
        except TimeoutError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise TrackerUnreachable(f"lost the tracker {self.address}: {error}") from error
        if code != self._base.TrackerCode.SUCCESS:
            raise TrackerUnreachable(f"the tracker {self.address} refused {message[0]}")
        return value


def run_tracker(listener: socket.socket) -> None:
    """Run TVM's tracker on a listening socket until interrupted.

    Parameters
    ----------
    listener : socket
        Where boards and clients connect.
    """
    import asyncio
    import secrets

    from tvm.rpc.tracker import TrackerServerHandler

    asyncio.set_event_loop(asyncio.new_event_loop())
    # Clients may stop TVM's tracker with this key: nobody gets it.
    handler = TrackerServerHandler(listener, secrets.token_hex(16))
    try:
        handler.run()
    finally:
        handler.stop()
