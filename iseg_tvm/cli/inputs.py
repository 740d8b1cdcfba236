"""What flags name, opened: a bundle on a machine, pictures, the address of a tracker."""

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from iseg_tvm.board.runner import Runner
    from iseg_tvm.network import Address


def tracker_address(args: argparse.Namespace) -> "Address | None":
    """Return the address of ``--tracker``, or None if the flag was not given.

    Raises
    ------
    IsegError
        It is no address, or neither the flag nor the environment names one.
    """
    from iseg_tvm.errors import IsegError
    from iseg_tvm.network import parse_address

    if args.tracker is None:
        return None
    if not args.tracker:
        raise IsegError(
            "--tracker without a value, and the environment names none",
            "give HOST:PORT, or set TVM_TRACKER_HOST and TVM_TRACKER_PORT",
        )
    return parse_address(args.tracker)


def open_runner(args: argparse.Namespace, stack: ExitStack) -> "Runner":
    """Load ``--bundle`` where the board flags say; `stack` closes the session.

    Raises
    ------
    IsegError
        No board, another board than the bundle's, or the bundle does not load.
    """
    from iseg_tvm.board.runner import LocalRunner
    from iseg_tvm.bundle import read_bundle
    from iseg_tvm.errors import IsegError
    from iseg_tvm.network import parse_address

    tracker = tracker_address(args)
    if tracker is None and args.rpc is None:
        return LocalRunner(read_bundle(args.bundle), args.threads)
    from iseg_tvm.remote.board import connect_direct, connect_tracker
    from iseg_tvm.remote.runner import RemoteRunner

    key = args.key or read_bundle(args.bundle, runnable=False).manifest.target.rpc_key
    if key is None:
        raise IsegError("the bundle's target has no key of its own", "add --key")
    if tracker is not None:
        board = connect_tracker(tracker, key, wait_seconds=args.timeout)
    else:
        board = connect_direct(parse_address(args.rpc), key)
    stack.enter_context(board)
    return RemoteRunner(
        board, args.bundle, args.threads, exact=not args.any_cpu, seconds=args.timeout
    )


def read_sample_image(
    args: argparse.Namespace, size: tuple[int, int]
) -> "npt.NDArray[np.uint8] | None":
    """Return the picture of the sample flags in (height, width), or None."""
    from iseg_tvm import images
    from iseg_tvm.sample import built_in_picture

    if args.no_sample:
        return None
    if args.sample is None:
        return built_in_picture(*size)
    return images.photo_to_array(images.load_photo(args.sample), size)
