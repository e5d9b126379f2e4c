"""The study's command: `python scripts/train.py --method standard|lora|…`, the same as `loratory train`."""

import sys

from command import run

if __name__ == "__main__":
    sys.exit(run("train"))
