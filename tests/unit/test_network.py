"""Addresses, and who may listen where."""

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.network import Address, check_bind_address, is_loopback, listen, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("pi.local:9190", "pi.local", 9190),
        ("[::1]:1", "::1", 1),
        ("10.0.0.7:65535", "10.0.0.7", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "pi", "pi:", ":9190", "pi:0", "pi:65536", "pi:x", "pi:-1"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(IsegError, match="is no HOST:PORT"):
        parse_address(text)


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.168.1.20")
    with pytest.raises(IsegError, match="unknown host"):
        is_loopback("no-such-host.invalid")


def test_public_address_needs_consent() -> None:
    assert "no password" in check_bind_address("127.0.0.1", False)
    with pytest.raises(IsegError, match=r"0\.0\.0\.0 is not a loopback address") as caught:
        check_bind_address("0.0.0.0", False)
    assert "--i-know" in caught.value.hint
    assert check_bind_address("0.0.0.0", True).startswith("WARNING")


def test_taken_port() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(IsegError, match="Address already in use"):
        listen("127.0.0.1", first.getsockname()[1])
