"""Part of scaling.py: processes that train together, how fast, in how much memory, and to which losses.

Each measurement is a launch of its own by torchrun. Its processes train once against the clock, as `loratory train`
does, and then in fp32 without dropout for the losses of a few epochs, which one process with the same global batch must
give up to rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workloads import Clock, Job, write_made_up

Row = dict[str, Any]

EPOCHS, STEPS = 8, 4
"""Of the curve: its points, and steps of the most processes in each."""

RATES = {"standard": 3e-4, "lora": 3e-3, "lora-all": 3e-3}
TINY_RATES = {"standard": 1e-2, "lora": 3e-2, "lora-all": 3e-2}
"""Learning rates of the curves, for weights that are random: of RoBERTa-base, and of the tiny model."""

TOLERANCE, MOVED = 1e-2, 1e-1
"""Of the curve's first loss: by which losses of several processes may differ from those of one, since fp32's rounding
grows with the steps; and by which the loss must change, because a curve that stands still shows nothing."""


@dataclass(frozen=True)
class Launch:
    """What the processes of one launch do."""

    job: Job
    curve: Job
    """The same on other texts."""
    rate: float
    """The curve's learning rate."""
    batches: tuple[int, ...]
    """A curve for each batch size, of a process."""
    output: str
    """The file that the first process writes."""

    @classmethod
    def read(cls, text: str) -> Launch:
        """From JSON."""
        given = json.loads(text)
        jobs = {name: Job(**given.pop(name)) for name in ("job", "curve")}
        return cls(**jobs, batches=tuple(given.pop("batches")), **given)


def work(launch: Launch) -> None:
    """What one of the processes does."""
    from loratory.engine.hardware import Hardware
    from loratory.engine.processes import joined
    from loratory.spec import HardwareSpec

    with joined(cuda=launch.job.device == "cuda"):
        hardware = Hardware.of(HardwareSpec(device=launch.job.device))
        found = {**_speed(launch.job), "curves": {}}
        for batch in launch.batches:
            hardware.free()
            found["curves"][batch] = _curve(launch.curve, batch, launch.rate)
        if hardware.processes.first:
            Path(launch.output).write_text(json.dumps(found), encoding="utf8")


def _speed(job: Job) -> Row:
    from loratory.engine.hardware import Hardware
    from loratory.engine.meter import Meter
    from loratory.run import optimize
    from loratory.setup import prepare
    from loratory.spec import HardwareSpec

    hardware = Hardware.of(HardwareSpec(device=job.device))
    processes, meter = hardware.processes, Meter(hardware)
    clock = Clock(hardware, begin=time.perf_counter(), warmup=job.warmup, steps=job.steps)
    setup = prepare(job.spec(), hardware)
    meter.start_memory()
    optimize(setup, meter, validated=False, on_step=lambda progress: clock.step(progress.step))
    meter.stop_memory()
    train, cost = setup.tokens["train"].tokens, meter.record()
    timed = job.order(len(train.lengths), processes.count)[1]
    kind = "allocated" if job.device == "cuda" else "resident"
    parts = cost["time_parts_seconds"]
    return {
        "seconds": max(processes.gathered(clock.seconds)),
        "examples": len(timed),
        "tokens": int(train.lengths[timed].sum()),
        "filled": cost["padded_tokens"] / cost["tokens"],
        "peak_bytes": cost["peak_memory_bytes"][kind],
        "parts": None if parts is None else {part: seconds / cost["steps"] for part, seconds in parts.items()},
    }


def _curve(job: Job, batch_size: int, rate: float) -> list[float]:
    """The mean loss of each epoch."""
    from loratory.engine.hardware import Hardware
    from loratory.engine.meter import Meter
    from loratory.run import optimize
    from loratory.setup import prepare

    spec = job.spec(batch_size=batch_size, lr=rate, epochs=EPOCHS, until=EPOCHS, dropout=0.0, precision="fp32")
    hardware = Hardware.of(spec.hardware)
    result = optimize(prepare(spec, hardware), Meter(hardware), validated=False)
    return [row["loss"] for row in result.history]


# ------------------------------------------------------------------------------------------------ in the parent


def launched(launch: Launch, processes: int) -> None:
    """Let so many processes do it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(Path(__file__).with_name("scaling.py"))
    subprocess.run([*launcher, script, "--worker", json.dumps(asdict(launch))], check=True)


def measure(
    job: Job, counts: list[int], methods: list[str], *, batch_size: int, rates: dict[str, float], words: int, work: Path
) -> list[Row]:
    """A row for each method and number of processes; 1 is the first number.

    Args:
        batch_size: of a process for the curves.
        rates: of the curves, by method.
    """
    most, rows = max(counts), []
    threads = str(max(1, (os.cpu_count() or 1) // most))
    os.environ.setdefault("OMP_NUM_THREADS", threads)  # the same for all: torchrun gives several processes one each
    curve = replace(job, data=str(work / "curve"), batch_size=batch_size)
    write_made_up(Path(curve.data), job.workload, count=batch_size * most * STEPS, words=words, telling=0.5)
    for count in counts:
        data = work / f"{job.workload}-{count}"
        examples = (job.warmup + job.steps) * job.batch_size * count
        write_made_up(data, job.workload, count=examples, words=words)
        for method in methods:
            alone = tuple(batch_size * several for several in counts[1:])
            launch = Launch(
                replace(job, method=method, data=str(data)),
                replace(curve, method=method),
                rates[method],
                alone if count == 1 else (batch_size,),
                str(work / f"{method}-{count}.json"),
            )
            launched(launch, count)
            rows.append({"method": method, "processes": count, **json.loads(Path(launch.output).read_text("utf8"))})
            said = f"{rows[-1]['examples'] / rows[-1]['seconds']:,.1f} examples/s"
            print(f"{job.workload} {method}, {count} processes: {said}", file=sys.stderr, flush=True)
    return [_judged(row, rows, job.steps, batch_size) for row in rows]


def _judged(row: Row, rows: list[Row], steps: int, batch_size: int) -> Row:
    """The row with its efficiency, and how far its losses are from those of one process."""
    count, (one, *_) = row["processes"], (other for other in rows if other["method"] == row["method"])
    speed = row["examples"] / row["seconds"]
    judged = {
        **row,
        "examples_per_second": speed,
        "step_seconds": row["seconds"] / steps,
        "efficiency": speed / (count * one["examples"] / one["seconds"]),
    }
    if count == 1:
        return {**judged, "difference": None, "same": True}
    curve, alone = row["curves"][str(batch_size)], one["curves"][str(batch_size * count)]
    difference = max(abs(a - b) for a, b in zip(curve, alone, strict=True)) / alone[0]
    moved = (max(alone) - min(alone)) / alone[0]
    found = {"curve": curve, "alone": alone, "difference": difference, "moved": moved}
    return {**judged, **found, "same": difference < TOLERANCE and moved > MOVED}


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| method | processes | examples/s | efficiency | step ms | of it waiting for sums | filled up to "
        "| peak MB of a process | losses, first to last | of one process | furthest apart |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|---|--:|",
    ]
    for row in rows:
        waits = None if row["parts"] is None else row["parts"].get("communication")
        cells = [row["method"], f"{row['processes']}", f"{row['examples_per_second']:,.0f}", f"{row['efficiency']:.2f}"]
        cells += [f"{row['step_seconds'] * 1e3:.1f}", "–" if waits is None else f"{waits * 1e3:.2f}"]
        cells += [f"{row['filled']:.1%}", f"{row['peak_bytes'] / 1e6:,.0f}"]
        if row["difference"] is None:
            cells += ["–"] * 3
        else:
            cells += [f"{curve[0]:.5f} to {curve[-1]:.5f}" for curve in (row["curve"], row["alone"])]
            said = "too far" if row["difference"] >= TOLERANCE else "the loss stands still"
            cells += [f"{row['difference']:.1e}" + ("" if row["same"] else f": {said}")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
