"""Speed and memory of training: Loratory beside HF Trainer with PEFT, in one run on one machine.

    python benchmarks/engine.py --device cpu            a Markdown table
    python benchmarks/engine.py --device cuda --model roberta-base --json

Contenders: (a) HF Trainer + PEFT with its defaults, (b) tuned, (b') tuned and compiled, (c) Loratory. Each measurement
runs in a fresh process; repeats alternate between the contenders, and medians count. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer
from workloads import LONGEST, METHODS, Clock, Job, matrix_rate, model_directory, operations, write_texts

from loratory.data import make_dataset, tokenize
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.spec import HardwareSpec

CONTENDERS = {
    "defaults": "(a) HF Trainer + PEFT, defaults",
    "tuned": "(b) HF Trainer + PEFT, tuned",
    "compiled": "(b') tuned, compiled",
    "loratory": "(c) Loratory",
}
STEPS = {("cpu", "short"): (5, 40), ("cpu", "long"): (2, 12), ("cuda", "short"): (20, 200), ("cuda", "long"): (10, 60)}
"""Steps of warm-up and steps timed."""

Row = dict[str, Any]


def main() -> None:
    """Measure everything that was asked for, and print it."""
    options = parse()
    if options.worker is not None:
        print(json.dumps(work(json.loads(options.worker))))
        return
    with tempfile.TemporaryDirectory(prefix="engine-") as work_directory:
        report = measure(options, Path(work_directory))
    print(json.dumps(report, indent=2) if options.json else markdown(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=["minilm", "roberta-base", "tiny"], default="minilm")
    parser.add_argument("--methods", type=_names(METHODS), default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--workloads", type=_names(LONGEST), default=list(LONGEST), help=", ".join(LONGEST))
    parser.add_argument("--contenders", type=_names(CONTENDERS), help=f"{', '.join(CONTENDERS)} (compiled: CUDA only)")
    parser.add_argument("--compile", action="store_true", help="measure the compiled rival on the CPU too")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, help="steps timed (default: by device and workload)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="3 steps, once, to see that it runs")
    parser.add_argument("--dataset", default="hutto:movies", help="where the texts come from")
    parser.add_argument(
        "--rival", action="append", default=[], metavar="KEY=VALUE", help="change a setting of (b) and (b'), as JSON"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _names(known: dict[str, Any]) -> Any:
    def names(value: str) -> list[str]:
        chosen = value.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return names


# ------------------------------------------------------------------------------------------------ in the worker


def work(request: dict[str, Any]) -> Row:
    """One measurement, in the process that was started for it."""
    if "rate" in request:
        return {"rate": matrix_rate(request["rate"], quick=request["quick"])}
    job = Job(**request)
    hardware = Hardware.of(HardwareSpec(device=job.device))
    train = _loratory() if job.contender == "loratory" else _rival()
    if job.device == "cuda":
        torch.zeros(1, device="cuda")  # the context is nobody's set-up
    meter = Meter(hardware)  # the memory's peak counts from here
    clock, share = train(job, hardware)
    peak = meter.record()["peak_memory_bytes"]
    return {
        "seconds": clock.seconds,
        "setup_seconds": clock.setup(share),
        "peak_bytes": peak["allocated"] if job.device == "cuda" else peak["resident"],
        "peak": peak,
    }


def _rival() -> Any:
    from rivals import run  # imported here: neither side pays for the other's libraries

    return run


def _loratory() -> Any:
    import peft  # noqa: F401  # importing is nobody's set-up

    from loratory.engine.fit import Progress, fit
    from loratory.run import prepare

    def run(job: Job, hardware: Hardware) -> tuple[Clock, float]:
        clock = Clock(hardware, warmup=job.warmup, steps=job.steps)
        setup = prepare(job.spec(), hardware)
        lr = setup.spec.training.lr
        assert lr is not None

        def on_step(progress: Progress) -> None:
            clock.step(progress.step)

        train = setup.tokens["train"]
        fit(
            setup.classifier,
            train,
            setup.spec.training,
            lr=lr,
            seed=setup.spec.seed,
            hardware=hardware,
            meter=Meter(hardware),
            validate=dict,
            better=lambda new, old: True,
            on_step=on_step,
        )
        warm, timed = (train.tokens.lengths[part].sum() for part in job.order(len(train.labels)))
        return clock, float(warm / timed)

    return run


# ------------------------------------------------------------------------------------------------ in the parent


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Make every measurement in a process of its own; `directory` holds what they share."""
    model = model_directory(options.model, directory)
    environment = {**os.environ, "LORATORY_DATA": str(directory), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    hardware = Hardware.of(HardwareSpec(device=options.device))
    rate = _worker({"rate": options.device, "quick": options.quick}, environment)["rate"]
    chosen = options.contenders or [name for name in CONTENDERS if name != "compiled" or _compiles(options)]
    rows: list[Row] = []
    mean_tokens = {}
    for workload in options.workloads:
        warmup, steps = (2, 3) if options.quick else STEPS[options.device, workload]
        steps = options.steps or steps
        job = Job(
            contender="", method="standard", workload=workload, model=model, data=str(directory / workload),
            device=options.device, batch_size=options.batch_size, warmup=warmup, steps=steps, settings=_settings(options),
        )  # fmt: skip
        write_texts(directory / workload, workload, dataset=options.dataset, count=(warmup + steps) * job.batch_size)
        lengths = tokenised(job, directory)
        mean_tokens[workload] = float(lengths.mean())
        for method in options.methods:
            samples = alternate(replace(job, method=method), chosen, 1 if options.quick else options.repeats, environment)
            work = operations(AutoConfig.from_pretrained(model), lengths, method)
            rows += [row(job, method, name, samples[name], lengths, work / rate) for name in chosen]
    compare(rows)
    weights = "packaged weights" if options.model == "minilm" else "random weights"
    return {
        "model": f"{options.model} ({weights})", "batch_size": options.batch_size, "repeats": len(rows[0]["samples"]),
        "mean_tokens": mean_tokens, "bf16_matrix_rate": rate, "rival": rival_settings(options), "rows": rows,
        "environment": hardware.record(),
    }  # fmt: skip


def alternate(job: Job, contenders: list[str], repeats: int, environment: dict[str, str]) -> dict[str, list[Row]]:
    """The samples of each contender: a, b, c, a, b, c …, so that all meet the machine in the same moods."""
    samples: dict[str, list[Row]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name in contenders:
            sample = _worker(asdict(replace(job, contender=name)), environment)
            samples[name].append(sample)
            said = sample.get("error") or f"{job.steps * job.batch_size / sample['seconds']:.1f} examples/s"
            print(f"{job.workload} {job.method} {name} {repeat + 1}/{repeats}: {said}", file=sys.stderr, flush=True)
    return samples


def _worker(request: dict[str, Any], environment: dict[str, str]) -> Row:
    """What a fresh process measured, or why it could not."""
    command = [sys.executable, __file__, "--worker", json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        result: Row = json.loads(done.stdout.splitlines()[-1])  # Trainer prints to stdout too
        return result
    return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
