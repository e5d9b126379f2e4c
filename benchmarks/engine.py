"""Speed and memory of training: Loratory beside HF Trainer with PEFT, in one run on one machine.

    python benchmarks/engine.py --device cpu            a Markdown table
    python benchmarks/engine.py --device cuda --model roberta-base --json

Contenders: (a) HF Trainer + PEFT with its defaults, (b) tuned, (b') tuned and compiled, (c) Loratory. Each measurement
runs in a fresh process; repeats alternate between the contenders, and medians count. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tables import CONTENDERS, Row, compare, markdown, row
from transformers import AutoTokenizer
from workloads import LONGEST, METHODS, RANDOM, Clock, Job, matrix_rate, model_directory, operations, write_texts

from loratory.data import make_dataset, tokenize
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.spec import HardwareSpec

STEPS = {("cpu", "short"): (5, 40), ("cpu", "long"): (2, 12), ("cuda", "short"): (20, 200), ("cuda", "long"): (10, 60)}
"""Steps of warm-up and steps timed."""


def main() -> None:
    """Measure everything that was asked for, and print it."""
    options = parse()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="engine-") as work_directory:
        try:
            measure(options, Path(work_directory), report)
        except KeyboardInterrupt:
            print("interrupted: what follows is what was measured until then", file=sys.stderr)
    if report:
        compare(report["rows"])
        print(json.dumps(report, indent=2) if options.json else markdown(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--model", default="minilm", help="minilm, roberta-base or tiny (random weights), or a directory"
    )
    parser.add_argument(
        "--tokenizer", default="minilm", help="whose tokenizer roberta-base gets: minilm, or a directory"
    )
    parser.add_argument("--methods", type=_names(METHODS), default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--workloads", type=_names(LONGEST), default=list(LONGEST), help=", ".join(LONGEST))
    parser.add_argument("--contenders", type=_names(CONTENDERS), help=f"{', '.join(CONTENDERS)} (compiled: CUDA only)")
    parser.add_argument("--compile", action="store_true", help="measure the compiled rival on the CPU too")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, help="steps timed (default: by device and workload)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--once",
        type=_names(CONTENDERS),
        default=[],
        help="contenders to be measured in the first repeat alone: compiling takes a minute a measurement",
    )
    parser.add_argument("--quick", action="store_true", help="3 steps, once, to see that it runs")
    parser.add_argument("--dataset", default="hutto:movies", help="where the texts come from")
    parser.add_argument(
        "--rival",
        action="append",
        type=_setting,
        default=[],
        metavar="KEY=JSON",
        help="change a setting of (b) and (b')",
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _names(known: dict[str, Any]) -> Any:
    def names(value: str) -> list[str]:
        chosen = value.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return names


def _setting(value: str) -> tuple[str, Any]:
    key, _, text = value.partition("=")
    return key, json.loads(text)


# ------------------------------------------------------------------------------------------------ in the worker


def _begin(environment: dict[str, str]) -> None:
    """What holds in a worker: its own processes, Trainer's loaders, are forked from it, as in a user's program."""
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)


def work(job: Job) -> Row:
    """One measurement, in the process that was started for it."""
    os.dup2(2, 1)  # Trainer prints
    hardware = Hardware.of(HardwareSpec(device=job.device))
    train = _loratory() if job.contender == "loratory" else _rival()
    if job.device == "cuda":
        torch.zeros(1, device="cuda")  # the context is nobody's set-up
    meter = Meter(hardware)  # the memory's peak counts from here
    clock, share = train(job, hardware, meter)
    peak = meter.record()["peak_memory_bytes"]
    return {
        "seconds": clock.seconds,
        "waiting": clock.waiting,
        "setup_seconds": clock.setup(share),
        "loading_seconds": clock.loading,
        "peak_bytes": peak["allocated"] if job.device == "cuda" else peak["resident"],
        "peak_memory_bytes": peak,
    }


def _rival() -> Any:
    from rivals import run

    return run


def _loratory() -> Any:
    import peft  # noqa: F401  # importing is nobody's set-up

    from loratory.engine.epoch import Progress
    from loratory.run import optimize
    from loratory.setup import prepare

    def run(job: Job, hardware: Hardware, meter: Meter) -> tuple[Clock, float]:
        """Train as `loratory train` does; the clock, and the tokens of the warm-up over those of the timed steps."""
        clock = Clock(hardware, begin=time.perf_counter(), warmup=job.warmup, steps=job.steps)
        setup = prepare(job.spec(), hardware)
        clock.loading = setup.load_seconds

        def on_step(progress: Progress) -> None:
            clock.step(progress.step)

        optimize(setup, meter, validated=False, on_step=on_step)
        train = setup.tokens["train"]
        warm, timed = (train.tokens.lengths[part].sum() for part in job.order(len(train.labels)))
        return clock, float(warm / timed)

    return run


# ------------------------------------------------------------------------------------------------ in the parent


def measure(options: argparse.Namespace, directory: Path, report: dict[str, Any]) -> None:
    """Make every measurement in a process of its own, and put it into `report`; `directory` holds what they share."""
    model = model_directory(options.model, directory, tokenizer=options.tokenizer)
    workers = Workers(directory)
    rate, precision = matrix_rate(options.device, quick=options.quick)
    report |= {
        "model": f"{options.model} ({'random' if options.model in RANDOM else 'pretrained'} weights)",
        "batch_size": options.batch_size,
        "matrix_rate": {"operations_per_second": rate, "precision": precision},
        "environment": Hardware.of(HardwareSpec(device=options.device)).record(),
        "workloads": {},
        "rows": [],
    }
    for name in options.workloads:
        warmup, steps = (2, 3) if options.quick else STEPS[options.device, name]
        job = Job(
            contender="tuned",
            method="standard",
            workload=name,
            model=model,
            data=str(directory / name),
            device=options.device,
            batch_size=options.batch_size,
            warmup=warmup,
            steps=options.steps or steps,
            settings=dict(options.rival),
        )
        measure_workload(job, options, workers, directory, report)


def measure_workload(
    job: Job, options: argparse.Namespace, workers: Workers, directory: Path, report: dict[str, Any]
) -> None:
    """Add the rows of one workload to `report`, and what is to be said about it."""
    from rivals import rival  # not above: Loratory's processes shall not load Trainer

    contenders = options.contenders or [
        name for name in CONTENDERS if name != "compiled" or options.compile or job.device == "cuda"
    ]
    count = (job.warmup + job.steps) * job.batch_size
    write_texts(Path(job.data), job.workload, dataset=options.dataset, count=count)
    lengths = _lengths(job, directory)
    timed = lengths[job.order(count)[1]]
    report["workloads"][job.workload] = {
        "mean_tokens": float(lengths.mean()),
        "longest": LONGEST[job.workload],
        "warmup": job.warmup,
        "steps": job.steps,
        "rivals": {name: asdict(rival(replace(job, contender=name))) for name in ("tuned", "compiled")},
    }
    for method in options.methods:
        floor = operations(replace(job, method=method), timed)
        floor /= report["matrix_rate"]["operations_per_second"]
        samples: dict[str, list[Row]] = {name: [] for name in contenders}
        try:
            alternate(replace(job, method=method), samples, options, workers)
        finally:  # an interruption leaves what was measured before it
            for name, made in samples.items():
                if made:
                    said = row(made, steps=job.steps, examples=len(timed), tokens=int(timed.sum()), floor=floor)
                    report["rows"].append({"workload": job.workload, "method": method, "contender": name, **said})


def alternate(job: Job, samples: dict[str, list[Row]], options: argparse.Namespace, workers: Workers) -> None:
    """Add samples of each contender: a, b, c, a, b, c …, so that all meet the machine in the same moods."""
    repeats = 1 if options.quick else options.repeats
    for repeat in range(repeats):
        for name, made in samples.items():
            if repeat > 0 and name in options.once:
                continue
            sample = workers.measure(replace(job, contender=name))
            made.append(sample)
            said = sample.get("error") or f"{job.steps * job.batch_size / sample['seconds']:.1f} examples/s"
            print(f"{job.workload} {job.method} {name} {repeat + 1}/{repeats}: {said}", file=sys.stderr, flush=True)


class Workers:
    """Makes each measurement in a fresh process, forked from one that has imported what all contenders import.

    With bitsandbytes installed, which PEFT imports and which wakes CUDA when it is, no such process can be forked:
    each then imports for itself, before its clock begins.
    """

    IMPORTED = ("__main__", "torch", "transformers", "peft", "workloads", "loratory.run", "triton")

    def __init__(self, directory: Path) -> None:
        os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
        self._own = {"LORATORY_DATA": str(directory)}  # theirs alone: the texts come from the user's
        wakes = torch.cuda.is_available() and find_spec("bitsandbytes") is not None
        self._context = multiprocessing.get_context("spawn" if wakes else "forkserver")
        self._context.set_forkserver_preload(list(self.IMPORTED))

    def measure(self, job: Job) -> Row:
        """What a fresh process measured, or why it could not."""
        with ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=(self._own,)) as pool:
            future = pool.submit(work, job)
            try:
                error = future.exception()  # whatever a rival fails with stands in the report
            except KeyboardInterrupt:
                for child in multiprocessing.active_children():
                    child.kill()  # else the pool would wait for it
                raise
            if error is not None:
                return {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0]}
            return future.result()


def _lengths(job: Job, directory: Path) -> NDArray[np.int64]:
    """(N,) tokens of each training text; the workers find them tokenised."""
    train = make_dataset(job.spec().data).train
    return tokenize(
        train, AutoTokenizer.from_pretrained(job.model), LONGEST[job.workload], directory / "tokens"
    ).lengths


if __name__ == "__main__":
    main()
