"""``completion``: the script, in a real bash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iseg_tvm.cli.completion import SHELLS
from iseg_tvm.cli.main import main

_ASK = """
source {script}
COMP_WORDS=({words}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
function_name=$(complete -p iseg-tvm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function_name iseg-tvm "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    path = tmp_path_factory.mktemp("completion") / "iseg-tvm.bash"
    command = [sys.executable, "-m", "iseg_tvm", "completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("do",), {"doctor"}),
        (("rpc",), {"rpc-server", "rpc-tracker"}),
        (("compile", "--ta"), {"--target"}),
        (("compile", "--target", "rpi"), {"rpi3", "rpi4", "rpi5"}),
        (("evaluate", "--dataset", "city"), {"cityscapes"}),
        (("quantize", "--rounding", ""), {"feedback", "nearest"}),
        (("quantize", "--checkpoint", "a_f"), {"a_folder"}),
        (("compile", "--model", "a_"), {"a_file.safetensors", "a_folder"}),
    ],
)
def test_bash(words: tuple[str, ...], offered: set[str], script: Path, tmp_path: Path) -> None:
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "a_file.safetensors").write_bytes(b"")
    quoted = " ".join(f"'{word}'" for word in ("iseg-tvm", *words))
    done = subprocess.run(
        ["bash", "-c", _ASK.format(script=script, words=quoted)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert {line.rstrip("/ ") for line in done.stdout.split()} == offered, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_json(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["shell"] == shell
    for word in ("iseg-tvm", "quantize", "rpc-server", "image-size"):
        assert word in values["script"]
