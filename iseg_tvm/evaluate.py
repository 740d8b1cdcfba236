"""``python -m iseg_tvm.evaluate`` is ``iseg-tvm evaluate``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
