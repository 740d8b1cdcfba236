"""``python -m iseg_tvm.info`` is ``iseg-tvm info``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["info", *sys.argv[1:]]))
