"""``python -m bench.chaos``."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # connections that end are what is tested

from bench.chaos.cli import main

if __name__ == "__main__":
    main()
