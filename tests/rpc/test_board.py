"""Sessions on a real server through a real tracker: what works, and every way it can end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.board.identity import read_identity
from iseg_tvm.network import Address
from iseg_tvm.remote import errors
from iseg_tvm.remote.board import RemoteBoard, connect_direct, connect_tracker
from iseg_tvm.targets import load_target
from tests.rpc.conftest import KEY
from tests.rpc.services import HOST, service, wait_for_board


@pytest.fixture
def session(tracker: Address, board: Address) -> Iterator[RemoteBoard]:
    """A session on the board."""
    with connect_tracker(tracker, KEY) as remote:
        yield remote


def test_identity(session: RemoteBoard) -> None:
    assert session.identity == read_identity()


def test_call_and_time(session: RemoteBoard, add_one: Path) -> None:
    module = session.load(add_one)
    values = np.arange(64, dtype=np.int32)
    tensors = [session.tensor(values), session.tensor(np.zeros_like(values))]
    session.call(module, "add_one", tensors)
    np.testing.assert_array_equal(session.numpy(tensors[1]), values + 1)
    times = session.time(module, "add_one", tensors, number=10, repeat=4)
    assert len(times) == 4
    assert min(times) > 0


def test_an_exception_leaves_the_session_usable(session: RemoteBoard, add_one: Path) -> None:
    module = session.load(add_one)
    with pytest.raises(errors.RemoteCallFailed, match="calling absent failed"):
        session.call(module, "absent", [])
    with pytest.raises(errors.RemoteCallFailed, match="add_one"):
        session.call(module, "add_one", [])
    assert session.ask("identity")


@pytest.mark.parametrize(
    ("kernel", "cause", "message"),
    [("illegal", "SIGILL", "illegal instruction"), ("segfault", "SIGSEGV", "died of SIGSEGV")],
)
def test_a_crash_is_named_and_the_server_lives_on(
    tracker: Address, board: Address, bad_kernels: Path, kernel: str, cause: str, message: str
) -> None:
    with connect_tracker(tracker, KEY) as remote:
        module = remote.load(bad_kernels)
        with pytest.raises(errors.SessionCrashed, match=message) as caught:
            remote.call(module, kernel, [])
        assert caught.value.cause == cause
        with pytest.raises(errors.SessionCrashed):
            remote.ask("identity")
    with connect_tracker(tracker, KEY) as remote:
        assert remote.connection.address == board


def test_client_gives_up_and_the_board_becomes_free(
    tracker: Address, board: Address, bad_kernels: Path
) -> None:
    start = time.monotonic()
    with connect_tracker(tracker, KEY) as remote:
        module = remote.load(bad_kernels)
        with pytest.raises(errors.BoardTimeout, match="no answer .* after 0.5 s"):
            remote.call(module, "endless", [], seconds=0.5)
    with connect_tracker(tracker, KEY):
        assert time.monotonic() - start < 20


def test_board_ends_a_session_that_takes_too_long(
    tracker: Address, board: Address, bad_kernels: Path
) -> None:
    with connect_tracker(tracker, KEY, session_seconds=1) as remote:
        module = remote.load(bad_kernels)
        with pytest.raises(errors.BoardTimeout, match="time is over"):
            remote.call(module, "endless", [])


def test_a_busy_board(session: RemoteBoard, tracker: Address) -> None:
    with pytest.raises(errors.NoBoard, match="became free in 0.2 s"):
        connect_tracker(tracker, KEY, wait_seconds=0.2)


def test_unknown_key_names_the_known(tracker: Address, board: Address) -> None:
    with pytest.raises(errors.NoBoard, match="no board is registered under the key 'rpi9'") as e:
        connect_tracker(tracker, "rpi9")
    assert f"registered: {KEY} (1)" in e.value.hint


def test_direct_connection(direct_board: Address) -> None:
    with connect_direct(direct_board, "direct") as remote:
        assert remote.identity == read_identity()
    with pytest.raises(errors.NoBoard, match="another key than 'other'"):
        connect_direct(direct_board, "other")


def test_nothing_listens(tracker: Address, board: Address) -> None:
    nowhere = Address(HOST, 1)
    with pytest.raises(errors.TrackerUnreachable, match="Connection refused"):
        connect_tracker(nowhere, KEY)
    with pytest.raises(errors.NoBoard, match="Connection refused"):
        connect_direct(nowhere, KEY)


def test_a_server_is_no_tracker(board: Address) -> None:
    with pytest.raises(errors.TrackerUnreachable, match="no TVM RPC tracker"):
        connect_tracker(board, KEY)


def test_a_vanished_board(tracker: Address, bad_kernels: Path) -> None:
    with service("iseg_tvm.rpc_server", "--tracker", str(tracker), "--key", "mortal"):
        wait_for_board(tracker, "mortal")
        remote = connect_tracker(tracker, "mortal")
        module = remote.load(bad_kernels)
    with pytest.raises(errors.BoardLost, match="has vanished"):
        remote.call(module, "illegal", [])
    remote.close()
    with pytest.raises(errors.NoBoard):
        connect_tracker(tracker, "mortal")


def test_server_finds_the_tracker_again() -> None:
    with service("iseg_tvm.rpc_tracker") as first:
        port = first.port
        board = service("iseg_tvm.rpc_server", "--tracker", str(first), "--key", "loyal")
        address = board.__enter__()
        wait_for_board(first, "loyal")
    try:
        with service("iseg_tvm.rpc_tracker", "--port", str(port)) as again:
            wait_for_board(again, "loyal")
            with connect_tracker(again, "loyal") as remote:
                assert remote.connection.address == address
    finally:
        board.__exit__(None, None, None)


def test_target_of_another_machine_is_refused(session: RemoteBoard) -> None:
    native = load_target("native")
    session.check_target(native)
    with pytest.raises(errors.WrongBoard, match="aarch64 CPUs"):
        session.check_target(load_target("rpi4"))
    with pytest.raises(errors.WrongBoard, match="lacks: neverheard"):
        session.check_target(replace(native, features=native.features | {"neverheard"}))
    cpu = replace(session.identity.cpu, parts=frozenset({"0x41:0xd03"}))
    session.identity = replace(session.identity, cpu=cpu)
    with pytest.raises(errors.WrongBoard, match="has Cortex-A53, and the target .* is Cortex-A72"):
        session.check_target(replace(native, native_parts=("0x41:0xd08",)))
