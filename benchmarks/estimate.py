"""What `loratory estimate` says beforehand, beside what `loratory train` measures: one row a combination.

python benchmarks/estimate.py --device cpu            32 combinations, a Markdown table

Each estimate and each run has a process of its own: on a CPU a fresh one, as its libraries count; for CUDA one forked
from one that has imported what both import. Texts are those of hutto:movies, short or joined (see workloads.py); every
run makes a fixed number of steps, of which the first are slower than the rest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from workloads import LONGEST, METHODS, model_directory, write_texts

from loratory import units
from loratory.engine.hardware import Hardware
from loratory.estimating import estimate
from loratory.methods import spec_from_flags
from loratory.run import train
from loratory.spec import HardwareSpec, RunSpec

FLAGS = {**METHODS, "head": {"method": "head"}, "hybrid": {"method": "hybrid", "unfrozen_layers": 1}}
BATCHES = {"short": (8, 32), "long": (4, 8)}
"""Examples a step."""


def main() -> None:
    """Measure, print, and say how far the estimates are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--models", default="minilm,roberta-base", help="minilm, roberta-base (random weights) or directories"
    )
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--methods", default=",".join(name for name in FLAGS if name != "lora-all"))
    parser.add_argument("--workloads", default=",".join(LONGEST))
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each run")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="estimate-") as place:
        work = Path(place)
        os.environ["LORATORY_DATA"] = str(Path(os.environ.get("LORATORY_DATA", "data")).resolve())
        try:
            for name in options.models.split(","):
                model = model_directory(name, work, tokenizer=options.tokenizer)
                for workload, method in product(options.workloads.split(","), options.methods.split(",")):
                    for batch in BATCHES[workload]:
                        data = work / f"{workload}-{batch}"
                        if not data.exists():
                            write_texts(data, workload, dataset="hutto:movies", count=options.steps * batch)
                        flags = {**FLAGS[method], "model": model, "batch_size": batch, "max_length": LONGEST[workload]}
                        found = measured(work, data, {**flags, "device": options.device, "epochs": 1})
                        rows.append({"model": name, "workload": workload, "method": method, "batch": batch, **found})
                        print(rows[-1], file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"stopped after {len(rows)} combinations\n")
    report(rows, options.device)


def measured(work: Path, data: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """One estimate and one run."""
    files = {"dataset": data / "train.csv", "validation": data / "validation.csv", "test": data / "test.csv"}
    spec = spec_from_flags({key: str(value) for key, value in {**files, **flags}.items()})
    said = _alone(_estimated, spec)
    with tempfile.TemporaryDirectory(dir=work) as output:
        run = _alone(_trained, spec, f"{output}/run")
    cost = run["cost"]
    peak = cost["peak_memory_bytes"]
    return {
        "parameters": said["parameters"] == run["parameters"],
        "memory": (said["peak_memory_bytes"], peak["allocated"] or peak["resident"]),
        "seconds": (said["train_seconds"], cost["train_seconds"]),
        "calibration": said["calibration_seconds"],
    }


def _estimated(spec: RunSpec) -> dict[str, Any]:
    return estimate(spec).to_dict()


def _trained(spec: RunSpec, output: str) -> dict[str, Any]:
    return train(spec, output=Path(output), keep_weights=False).record.to_dict()


def _alone(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What `work` gives in a process of its own."""
    context: BaseContext = multiprocessing.get_context("spawn")
    if args[0].hardware.device == "cuda":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "loratory.run", "loratory.estimating"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args).result()


def report(rows: list[dict[str, Any]], device: str) -> None:
    """The table, and how many rows are within the bounds that are promised."""
    bounds = {"memory": 0.10 if device == "cuda" else 0.15, "seconds": 0.20}
    print(Hardware.of(HardwareSpec(device=device)).record()["device"], "\n")
    print(
        "| model | texts | method | batch | parameters | memory, said | measured | off | time, said | measured | off |"
    )
    print("|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|")
    off = {key: [said / found - 1 for said, found in (row[key] for row in rows)] for key in bounds}
    for number, row in enumerate(rows):
        memory = " | ".join(map(units.memory, row["memory"]))
        seconds = " | ".join(map(units.duration, row["seconds"]))
        print(
            f"| {row['model']} | {row['workload']} | {row['method']} | {row['batch']} "
            f"| {'exact' if row['parameters'] else 'OFF'} | {memory} | {off['memory'][number]:+.0%} "
            f"| {seconds} | {off['seconds'][number]:+.0%} |"
        )
    for key, bound in bounds.items():
        inside = sum(abs(one) <= bound for one in off[key])
        print(f"\n{key} within {bound:.0%}: {inside} of {len(rows)}; furthest {max(off[key], key=abs):+.0%}")
    calibrations = [row["calibration"] for row in rows]
    print(f"\ncalibrations took {min(calibrations):.1f} to {max(calibrations):.1f} s each, the model's making included")


if __name__ == "__main__":
    main()
