"""``python -m iseg_tvm.rpc_server`` is ``iseg-tvm rpc-server``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["rpc-server", *sys.argv[1:]]))
