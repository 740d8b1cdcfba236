"""``python -m iseg_tvm.deploy`` is ``iseg-tvm deploy``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["deploy", *sys.argv[1:]]))
