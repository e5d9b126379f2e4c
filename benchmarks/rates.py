"""How the default learning rates were chosen: validation scores of each, over seeds. The test split is not used.

    python benchmarks/rates.py --method lora --rates 5e-4,1e-3,2e-3,4e-3 --seeds 0,1,2

Further flags are those of `loratory train`.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods import spec_from_flags
from loratory.run import optimize
from loratory.setup import prepare


def main() -> None:
    """Train at each rate with each seed, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")], required=True)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    options, rest = parser.parse_known_args()
    flags = {key.lstrip("-").replace("-", "_"): value for key, value in zip(rest[::2], rest[1::2], strict=True)}
    print(f"{options.method}, seeds {options.seeds}, {flags or 'defaults'}\n")
    print("| rate | validation accuracy: mean | sd | each | log loss |\n|--:|--:|--:|---|--:|")
    for rate in options.rates:
        runs = [scores({**flags, "method": options.method, "lr": rate, "seed": seed}) for seed in options.seeds]
        accuracy = [100 * run["validation_accuracy"] for run in runs]
        each = ", ".join(f"{value:.1f}" for value in accuracy)
        loss = statistics.mean(run["validation_log_loss"] for run in runs)
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        print(f"| {rate:g} | {statistics.mean(accuracy):.2f} | {spread:.2f} | {each} | {loss:.4f} |")
        sys.stdout.flush()


def scores(flags: dict[str, object]) -> dict[str, float]:
    """Train once; the scores on validation after the last epoch."""
    spec = spec_from_flags(flags)
    hardware = Hardware.of(spec.hardware)
    result = optimize(prepare(spec, hardware), Meter(hardware))
    return result.history[-1]


if __name__ == "__main__":
    main()
