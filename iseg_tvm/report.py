"""``python -m iseg_tvm.report`` is ``iseg-tvm report``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
