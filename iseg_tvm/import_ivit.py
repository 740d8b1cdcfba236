"""``python -m iseg_tvm.import_ivit`` is ``iseg-tvm import-ivit``."""

import sys

from iseg_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["import-ivit", *sys.argv[1:]]))
