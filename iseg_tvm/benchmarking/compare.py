"""Two results side by side: what changed, what differs in how they were made, what is noise."""

from __future__ import annotations

from dataclasses import dataclass

from iseg_tvm.benchmarking.result import BenchmarkResult


@dataclass(frozen=True)
class Line:
    """One figure of two results, in milliseconds; None where one has none."""

    name: str
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        """Second over first: below 1 the second is faster."""
        if not self.first or self.second is None:
            return None
        return self.second / self.first


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Parameters
    ----------
    latency, kernels : tuple of Line
        Of whole runs, and of each kernel, largest difference first.
    differences : tuple of str
        What else is not the same: such results answer another question.
    verdict : str
        One sentence.
    """

    latency: tuple[Line, ...]
    kernels: tuple[Line, ...]
    differences: tuple[str, ...]
    verdict: str


def compare(first: BenchmarkResult, second: BenchmarkResult) -> Comparison:
    """Compare two results.

    The difference counts as noise where the ranges from p10 to p90 overlap.
    """
    a, b = first.latency_ms(), second.latency_ms()
    latency = tuple(Line(name, a[name], b[name]) for name in a)
    return Comparison(latency, _kernels(first, second), _differences(first, second), _verdict(a, b))


def _kernels(first: BenchmarkResult, second: BenchmarkResult) -> tuple[Line, ...]:
    one = {kernel.name: kernel.total_ms for kernel in first.kernels}
    two = {kernel.name: kernel.total_ms for kernel in second.kernels}
    lines = [Line(name, one.get(name), two.get(name)) for name in dict.fromkeys([*one, *two])]
    return tuple(sorted(lines, key=lambda line: -abs((line.second or 0) - (line.first or 0))))


def _differences(first: BenchmarkResult, second: BenchmarkResult) -> tuple[str, ...]:
    pairs = {
        "model": (first.model, second.model),
        "image size": (first.image_size, second.image_size),
        "target": (first.target, second.target),
        "board": (first.board.name, second.board.name),
        "CPU parts": (sorted(first.board.cpu.parts), sorted(second.board.cpu.parts)),
        "system": (first.board.system, second.board.system),
        "threads": (first.threads, second.threads),
        "TVM": (first.tvm_version, second.tvm_version),
        "LLVM": (first.llvm_version, second.llvm_version),
        "commit": (first.git_commit, second.git_commit),
        "library": (first.library_sha256[:12], second.library_sha256[:12]),
        "clock's governor": (first.after.governor, second.after.governor),
        "throttling": (first.after.throttled, second.after.throttled),
        "bits checked": (first.check.equal, second.check.equal),
    }
    return tuple(f"{name}: {one} / {two}" for name, (one, two) in pairs.items() if one != two)


def _verdict(a: dict[str, float], b: dict[str, float]) -> str:
    if a["p10"] <= b["p90"] and b["p10"] <= a["p90"]:
        return "no difference beyond the noise: the ranges from p10 to p90 overlap"
    faster, slower = (b, a) if b["median"] < a["median"] else (a, b)
    name = "second" if faster is b else "first"
    return f"the {name} is {slower['median'] / faster['median']:.2f} times faster (median)"
