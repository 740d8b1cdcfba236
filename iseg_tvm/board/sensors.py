"""Temperature, clock, throttling and memory, where the system lets us read them."""

import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_THERMAL = Path("/sys/class/thermal")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_STATUS = Path("/proc/self/status")
# Bits of `vcgencmd get_throttled` (Raspberry Pi documentation, vcgencmd).
_THROTTLED_NOW = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True)
class Sensors:
    """One reading; None for what cannot be read here.

    Parameters
    ----------
    temperature_c : float or None
        Hottest thermal zone.
    frequency_mhz : float or None
        Clock of CPU 0.
    governor : str or None
        What sets the clock.
    throttled : tuple of str or None
        Raspberry Pi: what holds the clock down right now.
    throttled_since_boot : tuple of str or None
        Raspberry Pi: what has done so since the board started.
    peak_memory_bytes : int or None
        Largest resident memory of this process so far.
    """

    temperature_c: float | None
    frequency_mhz: float | None
    governor: str | None
    throttled: tuple[str, ...] | None
    throttled_since_boot: tuple[str, ...] | None
    peak_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the reading as JSON values."""
        return asdict(self)


def read_sensors() -> Sensors:
    """Return a reading of this machine and process."""
    zones = [_number(path) for path in sorted(_THERMAL.glob("thermal_zone*/temp"))]
    known = [value / 1000 for value in zones if value is not None]
    clock = _number(_CPUFREQ / "scaling_cur_freq")
    word = _throttled_word()
    return Sensors(
        temperature_c=max(known, default=None),
        frequency_mhz=None if clock is None else clock / 1000,
        governor=_text(_CPUFREQ / "scaling_governor"),
        throttled=None if word is None else throttle_reasons(word),
        throttled_since_boot=None if word is None else throttle_reasons(word >> 16),
        peak_memory_bytes=_peak_memory(_text(_STATUS) or ""),
    )


def throttle_reasons(word: int) -> tuple[str, ...]:
    """Return the names of the bits set in a word of ``vcgencmd get_throttled``."""
    return tuple(name for bit, name in _THROTTLED_NOW.items() if word >> bit & 1)


def _throttled_word() -> int | None:
    """Return ``throttled=0x...`` of a Raspberry Pi's firmware."""
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    try:
        command = [tool, "get_throttled"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout
        return int(text.partition("=")[2], 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _peak_memory(status: str) -> int | None:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
