"""The study's command: `python scripts/train.py --method standard|lora|…`, the same as `loratory train`."""

import sys

from loratory.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
