"""Ctrl-C, as a terminal sends it: SIGINT to a real command and all its processes, mid-work."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iseg_tvm.artifact import load_model, save_model
from iseg_tvm.build import compile_bundle
from iseg_tvm.cli.main import main
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.sample import built_in_picture
from iseg_tvm.targets import load_target
from tests.helpers import noise_dataset, random_quantized_model, tiny_config

SIZE = (32, 32)
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240


@dataclass(frozen=True)
class Files:
    """What the commands work with."""

    folder: Path

    @property
    def out(self) -> Path:
        """Where a command writes."""
        return self.folder / "out"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a float model, its shape's integer model, a bundle and a data set."""
    folder = tmp_path_factory.mktemp("interrupt")
    config = tiny_config(image_size=SIZE)
    save_checkpoint(build_segmenter(config), folder / "checkpoint")
    save_model(random_quantized_model(config), folder / "model.safetensors")
    model = load_model(folder / "model.safetensors")
    picture = built_in_picture(*SIZE)
    compile_bundle(model, load_target("native"), folder / "bundle", sample_image=picture)
    noise_dataset(folder / "data", SIZE, 40)
    return folder


@pytest.fixture
def files(prepared: Path, tmp_path: Path) -> Files:
    """The prepared files by links, and an empty folder to write to."""
    for entry in prepared.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "out").mkdir()
    return Files(tmp_path)


QUANTIZE = ("quantize --checkpoint checkpoint --calibration data/images -o out/m.safetensors",
            "calibrat", [])  # fmt: skip
COMMANDS = {
    "quantize": QUANTIZE,
    "compile": ("compile --model model.safetensors -o out/bundle", "compiling", []),
    "deploy": ("deploy --model model.safetensors --target rpi4 -o out/a.tar.gz", "compiling", []),
    "segment": (
        "segment data/images/0.png --bundle bundle -o out/o.png --repeat 1000000",
        "running", [],
    ),
    "bench": ("bench --bundle bundle --repeat 1000000 -o out/b.json", "Measuring", []),
    "evaluate": (
        "evaluate --model model.safetensors --root data --short-side 128 -o out/r.json",
        "evaluating", ["r.json.state"],
    ),
    "qat": (
        "qat --checkpoint checkpoint --root data --steps 100000 --threads 1 --save-every 1 "
        "-o out/m.safetensors",
        "step", ["m.safetensors.state"],
    ),
    "tune": (
        "tune --model model.safetensors --trials 100000 -o out/log --threads 1",
        "task", ["log"],
    ),
    "report": (
        "report --checkpoint checkpoint --model model.safetensors --images data/images "
        "-o out/r.html", "Loading", [],
    ),
    "rpc-tracker": ("rpc-tracker --port 0 -v", "listening on", []),
    "rpc-server": ("rpc-server --port 0 --key k -v", "listening on", []),
}  # fmt: skip


def interrupt(
    files: Files, command: str, sign: str, send: Callable[[int], None]
) -> tuple[int, str]:
    """Run a command, interrupt it when it says `sign`; return its status and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "iseg_tvm", *command.split()],
        cwd=files.folder, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # Under nohup, or in a script's background, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    watchdog = threading.Timer(SECONDS, lambda: os.killpg(process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if sign in line:
                break
        assert sign in "".join(said), said
        send(process.pid)
        said.append(process.stderr.read())
        return process.wait(), "".join(said)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c(name: str, files: Files) -> None:
    command, sign, kept = COMMANDS[name]
    status, said = interrupt(files, command, sign, lambda group: os.killpg(group, signal.SIGINT))
    assert status == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "interrupted"
    # Training writes its first state after a step; everything else is there from the start.
    left = {path.name for path in files.out.iterdir()}
    assert left <= set(kept) if name == "qat" else left == set(kept)


def test_terminated(files: Files) -> None:
    """``kill`` cleans up just so; the status is the shell's for SIGTERM."""
    command, sign, _ = COMMANDS["compile"]
    status, said = interrupt(files, command, sign, lambda pid: os.kill(pid, signal.SIGTERM))
    assert (status, said.splitlines()[-1]) == (143, "terminated")
    assert list(files.out.iterdir()) == []


def test_evaluation_goes_on_where_ctrl_c_stopped_it(files: Files) -> None:
    command, sign, _ = COMMANDS["evaluate"]
    status, said = interrupt(files, command, sign, lambda pid: os.kill(pid, signal.SIGINT))
    assert status == 130, said
    again = [sys.executable, "-m", "iseg_tvm", *command.split(), "--resume"]
    done = subprocess.run(
        again, cwd=files.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (files.out / "r.json").is_file()


@pytest.fixture
def foreground() -> Iterator[None]:
    """SIGINT's handler, as in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_that_tvm_turned_into_its_own_error(
    number: signal.Signals,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(args: argparse.Namespace) -> int:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise RuntimeError("") from None
        return 0

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("iseg_tvm.cli.info.run", run)
    assert main(["info"]) == status
    assert capsys.readouterr().err == f"{said}\n"
    monkeypatch.undo()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
