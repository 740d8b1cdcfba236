"""``python -m iseg_tvm`` is ``iseg-tvm``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
