"""``python -m iseg_tvm.rpc_tracker`` is ``iseg-tvm rpc-tracker``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["rpc-tracker", *sys.argv[1:]]))
