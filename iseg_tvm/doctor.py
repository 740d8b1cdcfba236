"""``python -m iseg_tvm.doctor`` is ``iseg-tvm doctor``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
