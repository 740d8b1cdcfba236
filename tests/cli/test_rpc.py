"""The flags of ``rpc_server`` and ``rpc_tracker``; what they do is in ``tests/rpc``."""

import pytest

from iseg_tvm.cli.main import main


@pytest.mark.parametrize("command", [["rpc_tracker"], ["rpc_server", "--key", "rpi4"]])
def test_public_address_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--host", "0.0.0.0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: 0.0.0.0 is not a loopback address")
    assert "--i-know" in captured.err.splitlines()[1]


def test_bad_tracker_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rpc_server", "--key", "rpi4", "--tracker", "pi"]) == 2
    assert capsys.readouterr().err.startswith("error: 'pi' is no HOST:PORT")


def test_bad_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["rpc_tracker", "--port", "70000"])
    assert "is not a whole number from 0 to 65535" in capsys.readouterr().err
