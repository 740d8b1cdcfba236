"""``iseg-tvm rpc-server``: what a board runs to be measured and tuned from another machine."""

import argparse
import logging
import signal
import sys

from iseg_tvm.cli.common import log, print_address
from iseg_tvm.cli.flags import (
    add_bind_arguments,
    add_common_arguments,
    add_flag,
    add_tracker,
    positive_int,
)
from iseg_tvm.cli.inputs import tracker_address

SUMMARY = "run a board's server: other machines upload, run and time models on it"
EXAMPLES = """\
On the board, with the tracker on a PC that is reached through ssh (docs/boards.md):
  iseg-tvm rpc-server --tracker 127.0.0.1:9190 --key rpi4
In a network you trust, and only there:
  iseg-tvm rpc-server --host 192.168.1.20 --tracker 192.168.1.10:9190 --key rpi4 --i-know
"""
DEFAULT_PORT = 9090


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_tracker(parser)
    add_flag(parser, "--key", required=True, help="kind of board: rpi3, rpi4, ...")
    add_bind_arguments(parser, DEFAULT_PORT)
    parser.add_argument(
        "--custom-addr",
        metavar="HOST",
        help="address that the tracker tells clients (default: --host, or the one it sees)",
    )
    parser.add_argument(
        "--session-timeout",
        type=positive_int,
        metavar="S",
        help="end any session after S seconds (default: none)",
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from iseg_tvm.board.server import Server
    from iseg_tvm.network import Address, check_bind_address, listen

    tracker = tracker_address(args)
    notice = check_bind_address(args.host, args.i_know)
    logging.getLogger("iseg_tvm").setLevel(logging.ERROR if args.quiet else logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    anywhere = args.host in {"0.0.0.0", "::", ""}
    with listen(args.host, args.port) as listener:
        address = Address(args.host, listener.getsockname()[1])
        log(args, notice)
        print_address(args, "server", address)
        Server(
            listener, args.key, tracker,
            args.custom_addr or (None if anywhere else args.host),
            args.session_timeout,
        ).run()  # fmt: skip
    return 0
