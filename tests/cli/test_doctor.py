"""``doctor``: each check with a machine on which it fails."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from iseg_tvm import health
from iseg_tvm.cli.main import main
from iseg_tvm.health import Finding, examine
from iseg_tvm.host_cpu import HostCpu
from iseg_tvm.network import Address


def finding(subject: str, tracker: Address | None = None) -> Finding:
    """The line about one subject."""
    (found,) = [f for f in examine(tracker) if f.subject == subject]
    return found


def test_this_machine_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["healthy"] is True
    found = {f["subject"]: f["status"] for f in values["findings"]}
    for subject in ("apache-tvm", "apache-tvm-ffi", "TVM's runtime", "CPU", "linker for aarch64"):
        assert found[subject] == "OK", values


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "apache-tvm-ffi" in out
    assert "as pinned" in out
    assert "\033" not in out


def with_version(monkeypatch: pytest.MonkeyPatch, package: str, version: str | None) -> None:
    real = importlib.metadata.version

    def fake(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", fake)


@pytest.mark.parametrize("version", ["0.1.15", None])
def test_the_pin_that_crashes_tvm(
    version: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_version(monkeypatch, "apache-tvm-ffi", version)
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert f"{version}, made for 0.1.14" in out or "not installed" in out
    assert "FAIL apache-tvm-ffi: pip install 'apache-tvm-ffi==0.1.14" in out


def test_a_board_without_torch_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "torch", None)
    found = finding("quantizing, compiling")
    assert (found.status, found.found) == ("WARN", "not installed: torch")
    assert "iseg-tvm[host]" in found.remedy


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "torch", "2.99.0+cpu")
    assert finding("quantizing, compiling").found.startswith("torch 2.99.0+cpu instead of 2.")


def test_unknown_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = HostCpu("riscv64", frozenset())
    monkeypatch.setattr(health, "read_host_cpu", lambda: cpu)
    monkeypatch.setattr("iseg_tvm.targets.read_host_cpu", lambda: cpu)
    found = finding("CPU")
    assert found.status == "WARN"
    assert "no target fits this machine (riscv64)" in found.found


def test_no_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("iseg_tvm.linking.importlib.util.find_spec", lambda name: None)
    found = health._linker(health.load_target("aarch64"))
    assert found.status == "WARN"
    assert "ziglang" in found.remedy


def test_a_linker_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "aarch64-linux-gnu-gcc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = finding("linker for aarch64")
    assert found.status == "WARN"
    assert "aarch64-linux-gnu-gcc does not run" in found.found


@pytest.mark.parametrize(("megabytes", "status"), [(100, "FAIL"), (1000, "WARN"), (9000, "OK")])
def test_disk(megabytes: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": megabytes * 10**6})
    monkeypatch.setattr(health.shutil, "disk_usage", lambda folder: usage)
    found = finding("free disk")
    assert found.status == status
    assert bool(found.remedy) == (status != "OK")


def test_tracker_that_is_not_there() -> None:
    found = finding("tracker 127.0.0.1:1", Address("127.0.0.1", 1))
    assert found.status == "FAIL"
    assert "rpc_tracker" in found.remedy
