"""``iseg-tvm rpc-tracker``: where boards register and clients ask for one."""

import argparse
import logging

from iseg_tvm.cli.common import log, print_address
from iseg_tvm.cli.flags import add_bind_arguments, add_common_arguments

SUMMARY = "run a tracker: boards register there, clients ask it for a free one"
EXAMPLES = """\
For boards that come in through ssh (docs/boards.md), or on this machine:
  iseg-tvm rpc-tracker
In a network you trust, and only there:
  iseg-tvm rpc-tracker --host 192.168.1.10 --i-know
"""
DEFAULT_PORT = 9190


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_bind_arguments(parser, DEFAULT_PORT)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the tracker until interrupted."""
    from iseg_tvm.network import Address, check_bind_address, listen
    from iseg_tvm.remote.tracker import run_tracker

    notice = check_bind_address(args.host, args.i_know)
    with listen(args.host, args.port) as listener:
        address = Address(args.host, listener.getsockname()[1])
        log(args, notice)
        print_address(args, "tracker", address)
        logging.getLogger("RPCTracker").setLevel(logging.WARNING)
        run_tracker(listener)
    return 0
