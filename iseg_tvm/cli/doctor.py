"""``iseg-tvm doctor``: what this machine lacks, and what to do about it."""

import argparse
import sys

from iseg_tvm.cli.common import colored, print_json, print_table
from iseg_tvm.cli.flags import add_common_arguments, add_tracker
from iseg_tvm.cli.inputs import tracker_address

SUMMARY = "check versions, CPU, compilers, disk and a tracker, with a remedy for what is wrong"
EXAMPLES = """\
This machine:
  iseg-tvm doctor
Also whether a tracker answers, and which boards it has:
  iseg-tvm doctor --tracker 127.0.0.1:9190

Exit status: 0, also with warnings; 2 if anything fails.
"""
_COLORS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_tracker(parser)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check; return the exit status."""
    from iseg_tvm.health import examine

    findings = examine(tracker_address(args))
    failed = any(finding.status == "FAIL" for finding in findings)
    if args.json:
        print_json({
            "kind": "doctor",
            "healthy": not failed,
            "findings": [finding.to_dict() for finding in findings],
        })  # fmt: skip
    else:
        rows = [
            (colored(f.status, _COLORS[f.status], sys.stdout), f.subject, f.found) for f in findings
        ]
        print_table(("", "what", "found"), rows, left=3)
        for finding in findings:
            if finding.remedy:
                print(f"{finding.status} {finding.subject}: {finding.remedy}")
    return 2 if failed else 0
