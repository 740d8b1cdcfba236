"""A folder with what the documentation's commands name, and an emulated Raspberry Pi 4."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.network import Address
from tests.arm.boards import BOARDS, make_sysroot, python_command, python_environment
from tests.arm.userspace import PreparationError, prepare
from tests.docs.blocks import ROOT, blocks
from tests.helpers import noise_dataset, random_image, tiny_config
from tests.rpc.services import service, wait_for_board

SIZE = (32, 32)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder: checkpoint/, photo.jpg, data sets, demo/, and the files that the pages show."""
    folder = tmp_path_factory.mktemp("documentation")
    config = tiny_config(image_size=SIZE, num_classes=150)  # as many as ADE20K has
    save_checkpoint(build_segmenter(config), folder / "checkpoint")
    noise_dataset(folder / "my_dataset", SIZE, 2)
    for part, suffix in (("images", "jpg"), ("annotations", "png")):
        target = folder / "ADEChallengeData2016" / part / "validation" / f"ADE_val_1.{suffix}"
        target.parent.mkdir(parents=True)
        Image.fromarray(random_image(*SIZE) % 151).convert("L").save(target)
    (folder / "demo").symlink_to(ROOT / "demo")
    Image.fromarray(random_image(48, 40)).save(folder / "photo.jpg")
    for block in blocks():
        if block.note == "file" and "/" not in block.value:
            (folder / block.value).write_text(block.text + "\n")
    return folder


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Address]]:
    """Function that starts a tracker and an emulated board under the key rpi4, once."""
    started: list[Address] = []
    with ExitStack() as stack:

        def start() -> Address:
            if not started:
                try:
                    space = prepare()
                except (PreparationError, IsegError) as error:
                    if os.environ.get("CI"):
                        pytest.fail(f"no ARM user space: {error}")
                    pytest.skip(f"no ARM user space: {error}")
                model = next(b for b in BOARDS if "rpi4" in b.targets)
                sysroot = make_sysroot(space, model, tmp_path_factory.mktemp("board") / "root")
                tracker = stack.enter_context(service("iseg_tvm.rpc_tracker"))
                stack.enter_context(service(
                    "iseg_tvm.rpc_server", "--tracker", str(tracker), "--key", "rpi4",
                    python=python_command(space, model, sysroot),
                    environment=python_environment(space),
                ))  # fmt: skip
                wait_for_board(tracker, "rpi4")
                started.append(tracker)
            return started[0]

        yield start
