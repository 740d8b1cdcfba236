"""Emulated boards behind a real tracker and RPC servers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.benchmarking.result import read_json
from iseg_tvm.build import compile_bundle
from iseg_tvm.cli.main import main
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.kernel_trace import checksum
from iseg_tvm.models.config import segmenter_preset
from iseg_tvm.network import Address
from iseg_tvm.reference_model import NumpyBackend, runtime_tensors
from iseg_tvm.remote import errors
from iseg_tvm.remote.board import connect_tracker
from iseg_tvm.remote.runner import RemoteRunner
from iseg_tvm.sample import built_in_picture
from iseg_tvm.targets import load_target
from tests.arm.boards import BOARDS, Board, make_sysroot, python_command, python_environment
from tests.arm.jobs import KernelLibrary
from tests.arm.userspace import UserSpace
from tests.helpers import random_quantized_model
from tests.rpc.services import service, wait_for_board

SEG_T_SIZE = (512, 512)


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


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_demo_model_whole(
    tracker: Address, board: Board, demo_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """The command a user types; it refuses to measure if a bit differs."""
    bundle = demo_bundle(board.targets[0])
    out = tmp_path / "result.json"
    command = ["bench", "--bundle", str(bundle), "--tracker", str(tracker)]
    command += ["--key", board.cpu, "--repeat", "1", "--warmup", "1", "--no-profile"]
    assert main([*command, "-o", str(out), "-q"]) == 0
    result = read_json(out)
    assert result.check.equal
    assert result.check.pixels == result.image_size[0] * result.image_size[1]
    assert result.board.cpu.parts == {f"0x41:{board.part}"}
    assert result.after.peak_memory_bytes


class _Recorder(NumpyBackend):
    """The NumPy reference, noting the checksum of every operator's result."""

    def __init__(self) -> None:
        self.results: list[str] = []

    def call(self, operator: str, *tensors: np.ndarray, **attributes: Any) -> np.ndarray:
        return self._note(super().call(operator, *tensors, **attributes))

    def concatenate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self._note(super().concatenate(first, second))

    def rows(self, x: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self._note(super().rows(x, start, stop))

    def _note(self, result: np.ndarray) -> np.ndarray:
        self.results.append(checksum(result))
        return result


@pytest.fixture(scope="module")
def seg_t() -> QuantizedModel:
    """Seg-T-Mask/16 at 512 x 512, with one encoder and one decoder block: each shape is in it."""
    config = segmenter_preset("seg_tiny_mask", image_size=SEG_T_SIZE)
    encoder, decoder = replace(config.encoder, depth=1), replace(config.decoder, num_layers=1)
    return random_quantized_model(replace(config, encoder=encoder, decoder=decoder), 3)


@pytest.fixture(scope="module")
def seg_t_results(seg_t: QuantizedModel) -> list[str]:
    """Checksums of all that the reference computes on the way to the class map."""
    recorder = _Recorder()
    IntegerGraph(seg_t, runtime_tensors(seg_t), recorder).run(built_in_picture(*SEG_T_SIZE))
    return recorder.results


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_operators_of_seg_t_at_their_true_shapes(
    tracker: Address, board: Board, seg_t: QuantizedModel, seg_t_results: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """What every kernel writes is, bit for bit, what the reference has at that point."""
    bundle = compile_bundle(seg_t, load_target(board.targets[0]), tmp_path / "bundle")
    with connect_tracker(tracker, board.cpu) as remote:
        runner = RemoteRunner(remote, bundle.path, seconds=300)
        runner.run(built_in_picture(*SEG_T_SIZE))
        kernels = runner.trace()
    assert tuple(name for name, _ in kernels) == bundle.manifest.kernels
    # Fused kernels leave results out; the order stays.
    remaining = iter(seg_t_results)
    wrong = [name for name, result in kernels if result not in remaining]
    assert wrong == []
    assert kernels[-1][1] == seg_t_results[-1]
