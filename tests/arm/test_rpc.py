"""Emulated boards behind a real tracker and RPC servers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.network import Address
from iseg_tvm.remote import errors
from iseg_tvm.remote.board import connect_tracker
from iseg_tvm.targets import load_target
from tests.arm.boards import BOARDS, Board, make_sysroot, python_command, python_environment
from tests.arm.jobs import KernelLibrary
from tests.arm.userspace import UserSpace
from tests.rpc.services import service, wait_for_board


@contextmanager
def board_server(
    space: UserSpace, board: Board, sysroot: Path, tracker: Address
) -> Iterator[Address]:
    """Run an emulated board's server, registered under the CPU's name."""
    with service(
        "iseg_tvm.rpc_server", "--tracker", str(tracker), "--key", board.cpu,
        python=python_command(space, board, sysroot), environment=python_environment(space),
    ) as address:  # fmt: skip
        yield address


@pytest.fixture(scope="module")
def tracker(
    user_space: UserSpace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    """A tracker at which every emulated board is registered."""
    with ExitStack() as stack:
        address = stack.enter_context(service("iseg_tvm.rpc_tracker"))
        for board in BOARDS:
            sysroot = make_sysroot(user_space, board, tmp_path_factory.mktemp("rpc") / board.cpu)
            stack.enter_context(board_server(user_space, board, sysroot, address))
        for board in BOARDS:
            wait_for_board(address, board.cpu)
        yield address


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_identity_and_target(tracker: Address, board: Board) -> None:
    with connect_tracker(tracker, board.cpu) as remote:
        cpu = remote.identity.cpu
        assert (cpu.arch, cpu.parts) == ("aarch64", {f"0x41:{board.part}"})
        assert cpu.features == set(board.features.split())
        for target in board.targets:
            remote.check_target(load_target(target))
        with pytest.raises(errors.WrongBoard, match="x86_64 CPUs"):
            remote.check_target(load_target("x86-avx2"))


def test_wrong_cpu_behind_the_key(tracker: Address) -> None:
    with connect_tracker(tracker, "cortex-a53") as remote:
        with pytest.raises(errors.WrongBoard, match="lacks: .*asimddp"):
            remote.check_target(load_target("rpi5"))
        with pytest.raises(errors.WrongBoard, match="has Cortex-A53, and .* rpi4 is Cortex-A72"):
            remote.check_target(load_target("rpi4"))
        remote.check_target(load_target("rpi4"), exact=False)


def test_illegal_instruction_is_named_and_the_server_lives_on(
    tracker: Address, kernel_library: Callable[[str], KernelLibrary]
) -> None:
    """Code for the Cortex-A76, forced upon a Cortex-A72."""
    kernels = kernel_library("rpi5")
    call = next(call for call in kernels.calls if " gemm_" in call["name"])
    arrays = [kernels.arrays[key] for key in (*call["arguments"], call["expected"])]
    with connect_tracker(tracker, "cortex-a76") as remote:
        module = remote.load(kernels.path)
        tensors = [remote.tensor(array) for array in [*arrays[:-1], np.zeros_like(arrays[-1])]]
        remote.call(module, call["function"], tensors)
        np.testing.assert_array_equal(remote.numpy(tensors[-1]), arrays[-1])
        assert min(remote.time(module, call["function"], tensors, number=2, repeat=2)) > 0
    with connect_tracker(tracker, "cortex-a72") as remote:
        module = remote.load(kernels.path)
        tensors = [remote.tensor(array) for array in arrays]
        with pytest.raises(errors.SessionCrashed, match="illegal instruction .SIGILL. on the"):
            remote.call(module, call["function"], tensors)
    with connect_tracker(tracker, "cortex-a72") as remote:
        remote.check_target(load_target("rpi4"))
