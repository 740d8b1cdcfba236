"""What the tests of commands share."""

from pathlib import Path

import pytest


def check_refused(
    status: int, out: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    """Assert that a command refused its input in words, and wrote nothing."""
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()
