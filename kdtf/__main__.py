"""Lets `python -m kdtf` do what the `kdtf` command does."""

import sys

from kdtf.cli import main

if __name__ == "__main__":
    sys.exit(main())
