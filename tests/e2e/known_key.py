"""``dpft`` with a key that is known, so that two of its runs can be compared; for tests alone."""

from __future__ import annotations

import sys

from dpft.cli.app import main
from dpft.privacy import noise

KEY = bytes(range(noise.KEY_BYTES))

if __name__ == "__main__":
    noise._fresh_key = lambda: KEY
    sys.exit(main(sys.argv[1:]))
