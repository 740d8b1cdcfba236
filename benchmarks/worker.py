"""One engine in a process of its own: loads a file, then runs when it is told to.

Only numpy and the engine's own package are imported, so that the process' peak memory is what a
program that uses the engine needs. Answers are lines of JSON on the real standard output; whatever
the runtimes print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], np.ndarray]


def load_ours(path: str, image: str, threads: int, _hint: str | None) -> Run:
    """Our library: uint8 image in, class map out."""
    from iseg_tvm.runtime import load

    segmenter, pixels = load(path, threads), np.load(image)
    return lambda: segmenter.run(pixels)


def load_onnxruntime(path: str, image: str, threads: int, _hint: str | None) -> Run:
    """ONNX Runtime: normalised float image in, class map out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {"image": np.load(image)}
    return lambda: session.run(None, feeds)[0]


def load_openvino(path: str, image: str, threads: int, hint: str | None) -> Run:
    """OpenVINO: normalised float image in, class map out."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request, pixels = compiled.create_infer_request(), np.load(image)
    return lambda: request.infer([pixels], share_inputs=True)[0]


LOADERS = {
    "iseg-tvm": load_ours,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
}


def timed_turn(run: Run, seconds: float, most: int) -> list[float]:
    """One untimed run, then milliseconds of 1 to `most` runs, as many as fit into `seconds`."""
    run()
    times: list[float] = []
    while not times or (len(times) < most and sum(times) < seconds * 1e3):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far (Linux), or None."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = status.read_text(encoding="utf-8").splitlines()
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")), None)


def serve(arguments: dict[str, Any]) -> None:
    """Load, save the class map, then answer ``turn`` until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    start = time.perf_counter()
    loader = LOADERS[arguments["runtime"]]
    run = loader(arguments["path"], arguments["image"], arguments["threads"], arguments["hint"])
    load_s = time.perf_counter() - start
    np.save(arguments["classes"], np.asarray(run()))
    answer(load_s=load_s, peak_memory_bytes=peak_memory_bytes())
    for line in sys.stdin:
        turn = json.loads(line)
        times = timed_turn(run, turn["seconds"], turn["most"])
        answer(times_ms=times, peak_memory_bytes=peak_memory_bytes())


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
