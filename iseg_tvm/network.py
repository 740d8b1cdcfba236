"""Network addresses of trackers and boards, and who may reach them."""

import ipaddress
import socket
from dataclasses import dataclass

from iseg_tvm.errors import IsegError

UNAUTHENTICATED = (
    "TVM RPC has no password and no encryption: whoever reaches the port can run any code"
)
_TUNNEL = "docs/boards.md shows how to go through ssh instead"


@dataclass(frozen=True)
class Address:
    """Host name or IP address, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``HOST:PORT``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises
    ------
    IsegError
        No host, or no port from 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise IsegError(f"{text!r} is no HOST:PORT", "such as 192.168.1.20:9190")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address; a name counts as what it resolves to.

    Raises
    ------
    IsegError
        The name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise IsegError(f"unknown host {host!r}: {error.strerror or error}") from error
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_bind_address(host: str, allowed: bool) -> str:
    """Refuse to listen where other machines connect, unless allowed; return a line to print.

    Raises
    ------
    IsegError
        Others reach the address and `allowed` is false, or the name does not resolve.
    """
    if is_loopback(host):
        return f"listening on {host} only. {UNAUTHENTICATED} (here: users of this machine)"
    if not allowed:
        raise IsegError(
            f"{host} is not a loopback address, and {UNAUTHENTICATED}",
            f"{_TUNNEL}; in a network you trust, add --i-know",
        )
    return f"WARNING: listening on {host}. {UNAUTHENTICATED}. {_TUNNEL}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    Raises
    ------
    IsegError
        The port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=16)
    except OSError as error:
        raise IsegError(
            f"cannot listen on {Address(host, port)}: {error.strerror or error}",
            "choose another --host or --port",
        ) from error


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other side lost power or network."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
