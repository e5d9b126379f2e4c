"""`python -m loratory`."""

import sys

from loratory.cli import main

if __name__ == "__main__":
    sys.exit(main())
