"""``python -m dpft``."""

import sys

from dpft.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
