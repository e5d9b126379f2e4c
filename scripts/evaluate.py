"""The study's command: `python scripts/evaluate.py --model_path models/your_model.pth`, as `loratory evaluate`."""

import sys

from loratory.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
