"""``python -m iseg_tvm.quantize`` is ``iseg-tvm quantize``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["quantize", *sys.argv[1:]]))
