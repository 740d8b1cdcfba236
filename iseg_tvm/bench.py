"""``python -m iseg_tvm.bench`` is ``iseg-tvm bench``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
