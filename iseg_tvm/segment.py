"""``python -m iseg_tvm.segment`` is ``iseg-tvm segment``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
