"""What a Raspberry Pi lets us read, imitated by files and a small program."""

from pathlib import Path

import pytest

from iseg_tvm.board import sensors


@pytest.fixture
def raspberry_pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for zone, temperature in (("thermal_zone0", "48312"), ("thermal_zone1", "51200")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(f"{temperature}\n")
    (tmp_path / "scaling_cur_freq").write_text("1500000\n")
    (tmp_path / "scaling_governor").write_text("ondemand\n")
    tool = tmp_path / "vcgencmd"
    tool.write_text("#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x50005\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sensors, "_THERMAL", tmp_path)
    monkeypatch.setattr(sensors, "_CPUFREQ", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_raspberry_pi(raspberry_pi: Path) -> None:
    reading = sensors.read_sensors()
    assert (reading.temperature_c, reading.frequency_mhz) == (51.2, 1500.0)
    assert reading.governor == "ondemand"
    assert reading.throttled == ("under-voltage", "throttled")
    assert reading.throttled_since_boot == ("under-voltage", "throttled")
    assert reading.peak_memory_bytes is not None
    assert reading.peak_memory_bytes > 1_000_000


def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_THERMAL", "_CPUFREQ"):
        monkeypatch.setattr(sensors, name, tmp_path)
    monkeypatch.setattr(sensors, "_STATUS", tmp_path / "status")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(sensors.read_sensors().to_dict().values()) == {None}


def test_no_throttling() -> None:
    assert sensors.throttle_reasons(0) == ()
    assert sensors.throttle_reasons(0b1010) == ("frequency capped", "soft temperature limit")
