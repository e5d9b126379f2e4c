"""What `loratory estimate` says beforehand, beside what `loratory train` measures: one row a combination.

python benchmarks/estimate.py --device cpu            32 combinations, a Markdown table
python benchmarks/estimate.py --memory 4GiB,8GiB      the largest batch that is said to stay below so much memory, and
                                                      1.25 times as many examples: trained, and their peaks

Each estimate and each run has a process of its own: on a CPU a fresh one, as its libraries count; for CUDA one forked
from one that has imported what both import. Texts are those of hutto:movies, short or joined (see workloads.py); every
run makes a fixed number of steps, of which the first are slower than the rest. The largest batch is sought from the
larger of a workload's two, over a fixed number of examples; what it is said to stay below is the memory that torch
allocated on CUDA, the resident set on a CPU. There is a second run of each on CUDA whose process may reserve no more
than that: whether it goes through is what a smaller GPU would say, but for the 0.5 GB or so of the driver.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from workloads import LONGEST, METHODS, model_directory, write_texts

from loratory import units
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.errors import OutOfMemoryError
from loratory.estimates import byte_count
from loratory.estimating import estimate
from loratory.methods import spec_from_flags
from loratory.outcome import memory_errors
from loratory.run import optimize, train
from loratory.setup import prepare
from loratory.spec import HardwareSpec, RunSpec

FLAGS = {**METHODS, "head": {"method": "head"}, "hybrid": {"method": "hybrid", "unfrozen_layers": 1}}
BATCHES = {"short": (8, 32), "long": (4, 8)}
"""Examples a step."""
OVER = 1.25
"""Of the largest batch, so many times as many examples should need more memory than there is."""


def main() -> None:
    """Measure, print, and say how far the estimates are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--models", default="minilm,roberta-base", help="minilm, roberta-base (random weights) or directories"
    )
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--dataset", default="hutto:movies", help="whose texts are taken")
    parser.add_argument("--methods", default=",".join(name for name in FLAGS if name != "lora-all"))
    parser.add_argument("--workloads", default=",".join(LONGEST))
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each run")
    parser.add_argument("--memory", help="sizes such as 4GiB: measure the largest batches")
    parser.add_argument("--examples", type=int, default=2048, help="training texts, with --memory")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="estimate-") as place:
        work = Path(place)
        os.environ["LORATORY_DATA"] = str(Path(os.environ.get("LORATORY_DATA", "data")).resolve())
        try:
            for row in _rows(work, options):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"stopped after {len(rows)} combinations\n")
    print(Hardware.of(HardwareSpec(device=options.device)).record()["device"], "\n")
    if options.memory is None:
        report(rows, options.device)
    else:
        report_largest(rows, options.device)


def _rows(work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every combination, measured."""
    for name in options.models.split(","):
        model = model_directory(name, work, tokenizer=options.tokenizer)
        for workload, method in product(options.workloads.split(","), options.methods.split(",")):
            own = {"model": name, "workload": workload, "method": method}
            flags = {**FLAGS[method], "model": model, "max_length": LONGEST[workload], "epochs": 1}
            flags["device"] = options.device
            if options.memory is not None:
                files = _texts(work, workload, options.dataset, options.examples)
                for size in options.memory.split(","):
                    given = {**files, **flags, "batch_size": BATCHES[workload][-1]}
                    yield {**own, **largest(work, given, byte_count(size), options.examples)}
                continue
            for batch in BATCHES[workload]:
                files = _texts(work, workload, options.dataset, options.steps * batch)
                yield {**own, "batch": batch, **measured(work, {**files, **flags, "batch_size": batch})}


def _texts(work: Path, workload: str, dataset: str, count: int) -> dict[str, Path]:
    """Flags that name `count` training texts, which are written once."""
    place = work / f"{workload}-{count}"
    if not place.exists():
        write_texts(place, workload, dataset=dataset, count=count)
    return {"dataset": place / "train.csv", "validation": place / "validation.csv", "test": place / "test.csv"}


def measured(work: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """One estimate and one run."""
    spec = _spec(flags)
    said, run = _alone(_estimated, spec), _train(work, spec)
    cost = run["cost"]
    return {
        "parameters": said["parameters"] == run["parameters"],
        "memory": (said["peak_memory_bytes"], _peak(run)),
        "seconds": (said["train_seconds"], cost["train_seconds"]),
        "calibration": said["calibration_seconds"],
    }


def largest(work: Path, flags: dict[str, Any], memory: int, examples: int) -> dict[str, Any]:
    """The largest batch that is said to stay below `memory` bytes, and the peak of a run with it, and of one with
    :data:`OVER` times as many; None for a run that would need more examples than there are, or none at all.
    """
    spec = _spec(flags)
    said = _alone(_estimated, spec, memory)["largest_batch"]
    sizes = (said, math.ceil(OVER * said))
    runs = [
        _measured_peak(work, _spec({**flags, "batch_size": size}), memory) for size in sizes if 0 < size <= examples
    ]
    return {"memory": memory, "sizes": sizes, "peaks": [*runs, None, None][:2]}


def _measured_peak(work: Path, spec: RunSpec, memory: int) -> tuple[int, bool | None]:
    """The peak of a run; on CUDA also whether it goes through in a process that may reserve no more than `memory`."""
    run = _train(work, spec)
    return _peak(run), _alone(_goes_through, spec, memory) if spec.hardware.device == "cuda" else None


def _peak(run: dict[str, Any]) -> int:
    peak = run["cost"]["peak_memory_bytes"]
    return int(peak["allocated"] or peak["resident"])


def _spec(flags: dict[str, Any]) -> RunSpec:
    return spec_from_flags({key: str(value) for key, value in flags.items()})


def _train(work: Path, spec: RunSpec) -> dict[str, Any]:
    """The record of a run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=work) as output:
        return _alone(_trained, spec, f"{output}/run")


def _estimated(spec: RunSpec, memory: int | None = None) -> dict[str, Any]:
    return estimate(spec, memory=memory).to_dict()


def _trained(spec: RunSpec, output: str) -> dict[str, Any]:
    return train(spec, output=Path(output), keep_weights=False).record.to_dict()


def _goes_through(spec: RunSpec, memory: int) -> bool:
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory / torch.cuda.mem_get_info()[1]))
    hardware = Hardware.of(spec.hardware)
    try:
        with memory_errors(spec, hardware):
            optimize(prepare(spec, hardware), Meter(hardware), validated=False)
    except OutOfMemoryError:
        return False
    return True


def _alone(work: Callable[..., Any], *args: Any) -> Any:
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


def report_largest(rows: list[dict[str, Any]], device: str) -> None:
    """The table of the largest batches, and how many of them are what they are said to be."""
    alone = ", alone" if device == "cuda" else ""
    titles = [f"{which} | peak | of the memory{alone}" for which in ("largest batch, said", f"{OVER} times it")]
    print(f"| model | texts | method | memory | {' | '.join(titles)} |")
    print(f"|---|---|---|--:|{'--:|--:|--:|' * 2}")
    for row in rows:
        cells = (_cells(size, peak, row["memory"]) for size, peak in zip(row["sizes"], row["peaks"], strict=True))
        names = (row["model"], row["workload"], row["method"], units.memory(row["memory"]))
        print(f"| {' | '.join([*names, *cells])} |")
    for place, what in enumerate(("within the memory with the largest batch", f"above it with {OVER} times as many")):
        peaks = [(row["peaks"][place], row["memory"]) for row in rows if row["peaks"][place] is not None]
        above = sum(peak > memory for (peak, _), memory in peaks)
        through = sum(bool(went) for (_, went), _ in peaks)
        said = f"; in the memory alone {through} went through" if device == "cuda" else ""
        print(f"\n{what}: {above if place else len(peaks) - above} of {len(peaks)}{said}")


def _cells(size: int, peak: tuple[int, bool | None] | None, memory: int) -> str:
    """A batch size, the peak of a run with it, its share of the memory and whether the memory alone sufficed."""
    if peak is None:
        return f"{size} | – | –"
    went = {None: "", True: ", went through", False: ", out of memory"}[peak[1]]
    return f"{size} | {units.memory(peak[0])} | {peak[0] / memory:.0%}{went}"


if __name__ == "__main__":
    main()
