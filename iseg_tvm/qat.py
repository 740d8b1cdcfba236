"""``python -m iseg_tvm.qat`` is ``iseg-tvm qat``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["qat", *sys.argv[1:]]))
