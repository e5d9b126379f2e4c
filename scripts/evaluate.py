"""The study's command: `python scripts/evaluate.py --model_path models/your_model.pth`, as `loratory evaluate`."""

import sys

from command import run

if __name__ == "__main__":
    sys.exit(run("evaluate"))
