"""How soon the program answers: `loratory --help` and the like in fresh processes.

python benchmarks/start.py [--times 20]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

ASKED = (["--help"], ["--version"], ["train", "--help"])


def seconds(words: list[str]) -> float:
    """From a process's start to its end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "loratory", *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="processes of each command")
    times = parser.parse_args().times
    print(f"| `loratory …` | median of {times} | fastest | slowest |\n|---|--:|--:|--:|")
    for words in ASKED:
        seconds(words)  # files come into the system's cache, and Python's own are compiled
        found = [seconds(words) for _ in range(times)]
        print(f"| `{' '.join(words)}` | {median(found):.3f} s | {min(found):.3f} s | {max(found):.3f} s |")


if __name__ == "__main__":
    main()
