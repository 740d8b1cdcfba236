"""Load a bundle and run it: numpy and TVM's runtime library, nothing of its compiler.

``import tvm`` would bring in the compiler (and torch and xgboost where they are installed), five
seconds on a computer and more on a board. The two small libraries ``libtvm_ffi`` and
``libtvm_runtime`` with the ``tvm_ffi`` package are all a compiled model needs.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from iseg_tvm.bundle import Bundle, Manifest, read_bundle
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import usable_cpus

_INSTALL = "install the board's packages: pip install iseg-tvm"
_CPU, _CPU_INDEX, _POOLED_ALLOCATOR = 1, 0, 2  # DLPack's kDLCPU; TVM's AllocatorType::kPooled
_SHARE_ALL_CORES = -3  # TVM's AffinityMode::kSpecifyThreadShareAllCore
_ALIGNMENT = 64  # what TVM's generated code assumes of every tensor

_CAPSULE_NAME = b"dltensor"  # kept: a capsule holds the pointer only
_RECORD_BYTES = 64  # of a DLManagedTensor
_ENTRY = "segment"  # ``main`` with its image and its weights bound

_pool = threading.local()  # TVM keeps one thread pool for every calling thread


@contextmanager
def without_torch() -> Iterator[None]:
    """Keep ``tvm_ffi`` from importing torch, which it does wherever torch is installed.

    A ``None`` in ``sys.modules`` makes ``import torch`` an ImportError, which it expects.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


@functools.cache
def tvm_runtime() -> ModuleType:
    """Load TVM's runtime library and return the ``tvm_ffi`` module.

    Raises
    ------
    IsegError
        TVM is not installed or does not load.
    """
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise IsegError("TVM's runtime is not installed (no package tvm)", _INSTALL)
    places = [Path(spec.submodule_search_locations[0]) / "lib"]
    if os.environ.get("TVM_LIBRARY_PATH"):
        places.insert(0, Path(os.environ["TVM_LIBRARY_PATH"]))
    library = next((p for d in places if (p := d / "libtvm_runtime.so").is_file()), None)
    if library is None:
        raise IsegError(f"libtvm_runtime.so is not in {places[-1]}", _INSTALL)
    try:
        with without_torch():
            import tvm_ffi
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise IsegError(f"TVM's runtime does not load: {error}", _INSTALL) from error
    return tvm_ffi


def set_num_threads(count: int) -> int:
    """Set how many threads TVM uses for calls from this thread; return the number it took.

    TVM's own default is half of the CPUs on x86 (it takes them for hyper-threads), so 1 of 2.
    The pool can only be sized once: where other code already ran a TVM function in this thread,
    the number may come out smaller.
    """
    ffi = tvm_runtime()
    if getattr(_pool, "count", None) != count:
        cpus = [str(cpu) for cpu in usable_cpus()]
        ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, cpus)
        _pool.count = count
    return int(ffi.get_global_func("runtime.NumThreads")())


class Segmenter:
    """A compiled model, ready to run.

    Parameters
    ----------
    bundle : Bundle
        The bundle to load.
    num_threads : int, optional
        Threads to use, 1 up to the CPUs this process may use; all of them if left out.

    Attributes
    ----------
    manifest : Manifest
        What the bundle says about itself.
    num_threads : int
        Threads in use.

    Raises
    ------
    IsegError
        TVM's runtime is missing, the library does not load, or too many threads are asked for.
    """

    manifest: Manifest
    num_threads: int

    def __init__(self, bundle: Bundle, num_threads: int | None = None) -> None:
        cpus = len(usable_cpus())
        wanted = cpus if num_threads is None else num_threads
        if not 1 <= wanted <= cpus:
            raise IsegError(
                f"{wanted} threads asked for, and this process may use {cpus} CPUs",
                f"choose 1 to {cpus} threads",
            )
        ffi = tvm_runtime()
        self.num_threads = set_num_threads(wanted)
        if num_threads is not None and self.num_threads != num_threads:
            raise IsegError(
                f"TVM already runs with {self.num_threads} threads in this process",
                "load the bundle before anything else runs TVM code, or set TVM_NUM_THREADS",
            )
        self.manifest = bundle.manifest
        try:
            # Kept: unloading the library would pull the code from under the virtual machine.
            library = str(bundle.library.resolve())
            self._module = ffi.load_module(library)
            self._weights = mapped_weights(ffi, library)
            self._image = _aligned_empty(self.manifest.input.shape)
            self._argument = ffi.from_dlpack(self._image)
            self._run = self.new_machine()[_ENTRY]
        except (RuntimeError, AttributeError, ValueError, OSError) as error:
            raise _load_error(bundle, error) from error
        self._ffi = ffi

    def new_machine(self) -> Any:
        """Return another virtual machine over the loaded library (for `iseg_tvm.profiling`)."""
        machine = self._module["vm_load_executable"]()
        machine["vm_initialization"](_CPU, _CPU_INDEX, _POOLED_ALLOCATOR)
        machine["save_function"]("main", _ENTRY, True, self._argument, *self._weights)
        return machine

    def run_machine(self, machine: Any) -> None:
        """Run a machine of `new_machine` on the image that was set last."""
        machine[_ENTRY]()

    def packed_function(self, function: Callable[..., Any]) -> Any:
        """Return a Python function in the form that the virtual machine calls."""
        return self._ffi.convert(function)

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the class map of an image.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8
            RGB, of exactly the bundle's image size.

        Returns
        -------
        ndarray, shape (H, W), uint8
            Class index of every pixel.

        Raises
        ------
        IsegError
            Another shape or dtype.
        """
        self.set_image(image)
        result = np.from_dlpack(self._run())
        # TVM's allocator reuses the memory for the next call.
        return np.array(result, dtype=np.uint8, copy=True)

    def set_image(self, image: npt.NDArray[np.uint8]) -> None:
        """Put an image where the virtual machine reads it, and the thread pool in order.

        Raises
        ------
        IsegError
            Another shape or dtype than the bundle's.
        """
        expected = self.manifest.input.shape
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
            got = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
            raise IsegError(
                f"the bundle takes an RGB image of uint8 {expected}, not {got}",
                "resize the image, or compile the model with another --image-size",
            )
        set_num_threads(self.num_threads)
        np.copyto(self._image, image)

    def run_timed(
        self,
        image: npt.NDArray[np.uint8],
        repeats: int,
        warmup: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[npt.NDArray[np.uint8], list[float]]:
        """Run an image several times; return the class map and each run's milliseconds.

        The time is `run`'s: image array in, class map out.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8
            As for `run`.
        repeats, warmup : int
            Timed runs, and untimed ones before them.
        progress : callable, optional
            Called with the runs done and their number, between runs.

        Raises
        ------
        IsegError
            Fewer than one repeat, or as `run`.
        """
        if repeats < 1:
            raise IsegError(f"{repeats} repeats asked for", "ask for at least 1")
        for _ in range(warmup):
            self.run(image)
        times_ms = []
        for done in range(1, repeats + 1):
            start = time.perf_counter()
            class_map = self.run(image)
            times_ms.append((time.perf_counter() - start) * 1e3)
            if progress is not None:
                progress(done, repeats)
        return class_map, times_ms


def load(bundle_dir: str | os.PathLike[str], num_threads: int | None = None) -> Segmenter:
    """Check a bundle folder and load it.

    Parameters
    ----------
    bundle_dir : path-like
        Folder written by ``iseg-tvm compile``.
    num_threads : int, optional
        See `Segmenter`.

    Raises
    ------
    IsegError
        The bundle is damaged, is for another CPU, or does not load.
    """
    return Segmenter(read_bundle(bundle_dir), num_threads)


def _aligned_empty(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return an uninitialised uint8 array that starts at a multiple of 64 bytes."""
    size = int(np.prod(shape))
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].reshape(shape)


class _DlpackRecord:
    """A ``DLManagedTensor`` of a loaded library, in Python's DLPack protocol."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __dlpack__(self, **_: Any) -> Any:
        new_capsule = ctypes.PYFUNCTYPE(
            ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
        )(("PyCapsule_New", ctypes.pythonapi))
        return new_capsule(self._address, _CAPSULE_NAME, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, _CPU_INDEX


def mapped_weights(ffi: ModuleType, library: str) -> list[Any]:
    """Tensors over the read-only weights of a loaded library, in the order ``main`` takes them.

    Libraries compiled before there were any hold them in the executable: an empty list.
    """
    handle = ctypes.CDLL(library)
    try:
        count = ctypes.c_int64.in_dll(handle, "iseg_weight_count").value
    except ValueError:
        return []
    first = ctypes.addressof(ctypes.c_char.in_dll(handle, "iseg_weights"))
    return [ffi.from_dlpack(_DlpackRecord(first + _RECORD_BYTES * i)) for i in range(count)]


def _load_error(bundle: Bundle, error: Exception) -> IsegError:
    """Explain why a library did not load; most often TVM differs from the one that made it."""
    built, here = bundle.manifest.tvm_version, importlib.metadata.version("apache-tvm")
    hint = "compile the model again on this version of iseg-tvm"
    if built != here:
        hint = f"it was compiled with TVM {built}, and this is {here}: compile it again"
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
    return IsegError(f"{bundle.library} does not load: {reason}", hint)
