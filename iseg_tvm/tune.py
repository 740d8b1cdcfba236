"""``python -m iseg_tvm.tune`` is ``iseg-tvm tune``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
