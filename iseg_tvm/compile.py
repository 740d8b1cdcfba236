"""``python -m iseg_tvm.compile`` is ``iseg-tvm compile``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compile", *sys.argv[1:]]))
