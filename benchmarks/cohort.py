"""Members of a cohort trained at once, beside the same ones trained one after another, in one run on one machine.

    python benchmarks/cohort.py --device cuda --model roberta-base            Markdown tables
    python benchmarks/cohort.py --device cpu --model tiny --members 3 --steps 4 --warmup 2
    python benchmarks/cohort.py --probes 64           so many heads on one pass of the encoder, beside one head

Sixteen LoRA members on query and value, of mixed rank, rate and seed, on the texts of benchmarks/workloads.py. Solo
runs are measured once for each rank, and count as often as the cohort has it; Hugging Face's Trainer with PEFT is the
tuned contender of benchmarks/engine.py, as it is and compiled, each in a process of its own, at rank 8.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from engine import STEPS, Workers
from workloads import RANDOM, Clock, Job, model_directory, write_texts

from loratory import units
from loratory.engine.cohort import fit_cohort
from loratory.engine.epoch import Progress
from loratory.engine.hardware import Hardware
from loratory.engine.member_steps import Member
from loratory.engine.meter import Meter
from loratory.inputs import Inputs
from loratory.methods import spec_from_flags
from loratory.run import optimize
from loratory.setup import Setup, prepare
from loratory.spec import HardwareSpec

RANKS = (1, 2, 4, 8, 16, 32, 64)

RIVALS = ("tuned", "compiled")
"""Contenders of benchmarks/engine.py."""


@dataclass
class Measured:
    """Seconds of the timed steps, the most memory allocated from before the first step on, and seconds from before the
    first step to after the last, by phase too."""

    seconds: float
    peak: int
    engine: dict[str, Any]
    whole: float
    phases: dict[str, float]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--model", default="roberta-base", help="roberta-base, minilm-shape or tiny (random weights), or a directory"
    )
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--workloads", default="short,long")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--rank", type=int, help="of all members (default: mixed)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--probes", type=int, help="measure so many heads alone, in place of LoRA members")
    parser.add_argument("--epochs", type=int, default=3, help="of the probes")
    parser.add_argument("--texts", type=int, default=8192, help="that the probes are trained on")
    parser.add_argument("--rival", action="store_true", help="measure Trainer with PEFT, too; on CUDA compiled, too")
    parser.add_argument("--dataset", default="hutto:movies", help="where the texts come from")
    parser.add_argument("--output", type=Path, help="a JSON file with all that was measured")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="cohort-") as place:
        work = Path(place)
        model = model_directory(options.model, work, tokenizer=options.tokenizer)
        workers = Workers(work)
        for workload in options.workloads.split(","):
            if options.probes is None:
                rows.append(measure(workload, model, work, workers, options))
            else:
                rows.append(probes(workload, model, work, options))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    environment = Hardware.of(HardwareSpec(device=options.device)).record()
    if options.output is not None:
        options.output.write_text(json.dumps({"environment": environment, "model": options.model, "rows": rows}))
    members = options.probes or options.members
    weights = f"{'random' if options.model in RANDOM else 'pretrained'} weights"
    print(f"{options.model}, {weights}, {environment['device']}, {members} members\n")
    print(table(rows) if options.probes is None else probes_table(rows))


def measure(workload: str, model: str, work: Path, workers: Workers, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    warmup, steps = STEPS[options.device, workload]
    warmup, steps = options.warmup or warmup, options.steps or steps
    data = work / workload
    write_texts(data, workload, dataset=options.dataset, count=(warmup + steps) * options.batch_size)
    ranks = [options.rank] * options.members if options.rank else list(islice(cycle(RANKS), options.members))
    job = Job("tuned", "lora", workload, model, str(data), options.device, options.batch_size, warmup, steps, {})
    named = [name for name in RIVALS if name == "tuned" or options.device == "cuda"] if options.rival else []
    rivals = {name: workers.measure(replace(job, contender=name)) for name in named}
    hardware = Hardware.of(HardwareSpec(device=options.device))
    solo = {rank: alone(prepared(job, rank, 0, hardware), job) for rank in sorted(set(ranks))}
    joint = together([prepared(job, rank, seed, hardware) for seed, rank in enumerate(ranks)], job)
    examples = steps * options.batch_size
    one_by_one = sum(solo[rank].seconds * count for rank, count in Counter(ranks).items())
    trainers = {name: one.get("seconds") for name, one in rivals.items()}
    return {
        "workload": workload,
        "ranks": ranks,
        "steps": steps,
        "rivals": rivals,
        "solo": {rank: [one.seconds, one.peak] for rank, one in solo.items()},
        "rival_examples_per_second": {name: examples / taken for name, taken in trainers.items() if taken},
        "solo_examples_per_second": examples * len(ranks) / one_by_one,
        "cohort_examples_per_second": examples * len(ranks) / joint.seconds,
        "over_rival": {name: taken * len(ranks) / joint.seconds for name, taken in trainers.items() if taken},
        "over_solo": one_by_one / joint.seconds,
        "solo_peak": max(one.peak for one in solo.values()),
        "cohort_peak": joint.peak,
        "engine": joint.engine,
    }


def probes(workload: str, model: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table of heads: of each the same texts, and rates, decays and seeds of their own.

    Each is measured twice, the one and all in turn, and the second time counts: the first loads kernels.
    """
    data = work / workload
    write_texts(data, workload, dataset=options.dataset, count=options.texts)
    hardware = Hardware.of(HardwareSpec(device=options.device))
    steps = math.ceil(options.texts / options.batch_size) * options.epochs
    job = Job(
        "solo", "lora", workload, model, str(data), options.device, options.batch_size, 1, steps - 1, {}
    )  # fmt: skip

    inputs = Inputs()

    def made(number: int, beside: Setup | None = None) -> Setup:
        rate = 1e-3 * 2 ** (number % 8 - 4)
        own = {"seed": number, "lr": rate, "weight_decay": 0.01 * (number % 3), "epochs": options.epochs}
        return prepare(spec_from_flags({**flags_of(job), "method": "head", **own}), hardware, inputs, beside=beside)

    loads = []
    for _ in range(2):
        first = made(0)
        begin = time.perf_counter()
        setups = [made(0, first)]
        loads = [time.perf_counter() - begin]
        one = alone(setups.pop(), job)
        begin = time.perf_counter()
        setups = [first, *(made(number, first) for number in range(1, options.probes))]
        loads.append((time.perf_counter() - begin) * options.probes / max(1, options.probes - 1))
        many = together(setups, job)
    return {
        "workload": workload,
        "probes": options.probes,
        "one_seconds": one.whole,
        "many_seconds": many.whole,
        "over_one": many.whole / one.whole,
        "one_peak": one.peak,
        "many_peak": many.peak,
        "one_load_seconds": loads[0],
        "many_load_seconds": loads[1],
        "one_phases": one.phases,
        "many_phases": many.phases,
        "one_engine": one.engine,
        "engine": many.engine,
    }


def probes_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| texts | heads | one | all | all over one | peak: one | all | before that, to load: one | all |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        times = [units.duration(row[key]) for key in ("one_seconds", "many_seconds")]
        peaks = [units.memory(row[key]) if row[key] else "–" for key in ("one_peak", "many_peak")]
        loads = [units.duration(row[key]) for key in ("one_load_seconds", "many_load_seconds")]
        cells = [row["workload"], str(row["probes"]), *times, f"{row['over_one']:.2f}×", *peaks, *loads]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def flags_of(job: Job) -> dict[str, Any]:
    """What all runs of the job share."""
    flags = {
        **job.spec().model_dump()["data"],
        "model": job.model, "batch_size": job.batch_size, "dropout": 0.1, "device": job.device,
    }  # fmt: skip
    return {name: value for name, value in flags.items() if value is not None}


def prepared(job: Job, rank: int, seed: int, hardware: Hardware) -> Setup:
    """A run of the job with this rank and seed, ready for its first step; alpha and rate differ, too."""
    own = {"method": "lora", "rank": rank, "alpha": 16, "targets": "attention", "epochs": 1, "until": 1}
    return prepare(spec_from_flags({**flags_of(job), **own, "seed": seed, "lr": 1e-4 * (1 + seed)}), hardware)


def fresh(device: torch.device) -> None:
    """Begin to count the memory's peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> int:
    """Bytes allocated at most; on a CPU nobody counts."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def alone(setup: Setup, job: Job) -> Measured:
    """Train it by itself."""
    hardware = setup.hardware
    fresh(hardware.device)
    meter = Meter(hardware)
    begin = time.perf_counter()
    clock = Clock(hardware, begin=begin, warmup=job.warmup, steps=job.steps)
    found = optimize(setup, meter, validated=False, on_step=lambda progress: clock.step(progress.step))
    hardware.synchronize()
    whole = time.perf_counter() - begin
    return Measured(clock.seconds, peak(hardware.device), found.engine, whole, phases(meter))


def together(setups: list[Setup], job: Job) -> Measured:
    """Train all at once: their frozen weights are the first one's."""
    hardware = setups[0].hardware
    share(setups)
    fresh(hardware.device)
    meter = Meter(hardware)
    begin = time.perf_counter()
    clock = Clock(hardware, begin=begin, warmup=job.warmup, steps=job.steps)

    def on_step(progress: Progress) -> None:
        clock.step(progress.step)

    members = [
        Member(one.classifier, one.spec.training, float(one.spec.training.lr or 0), one.spec.seed) for one in setups
    ]
    _, engine = fit_cohort(members, setups[0].tokens["train"], None, hardware=hardware, meter=meter, on_step=on_step)
    hardware.synchronize()
    return Measured(clock.seconds, peak(hardware.device), engine, time.perf_counter() - begin, phases(meter))


def phases(meter: Meter) -> dict[str, float]:
    """Seconds of each phase, a frozen encoder's pass (which counts towards training) apart."""
    return {**meter.seconds, "bottom": meter.clock.bottom}


def share(setups: list[Setup]) -> None:
    """Let all models have the first one's frozen weights."""
    first = dict(setups[0].base.model.named_parameters())
    for setup in setups[1:]:
        for name, parameter in setup.base.model.named_parameters():
            if not parameter.requires_grad and not first[name].requires_grad:
                parameter.data = first[name].data


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| texts | examples/s: Trainer + PEFT, tuned | compiled | solo runs | cohort | over Trainer | over compiled "
        "| over solo | peak: solo | cohort | over solo |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        rates, overs = row["rival_examples_per_second"], row["over_rival"]
        cells = [
            row["workload"],
            *(f"{rates[name]:,.0f}" if name in rates else "–" for name in RIVALS),
            f"{row['solo_examples_per_second']:,.0f}",
            f"{row['cohort_examples_per_second']:,.0f}",
            *(f"{overs[name]:.1f}×" if name in overs else "–" for name in RIVALS),
            f"{row['over_solo']:.2f}×",
            *(units.memory(row[key]) if row[key] else "–" for key in ("solo_peak", "cohort_peak")),
            f"{row['cohort_peak'] / row['solo_peak']:.1f}×" if row["solo_peak"] else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
