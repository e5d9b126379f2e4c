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

EPOCHS, STEPS = 8, 2
"""Of the curve: its points, and steps of the most processes in each."""

TOLERANCE = 1e-3
"""By which a loss of several processes may differ from that of one, relatively: fp32's rounding over some steps."""


@dataclass(frozen=True)
class Launch:
    """What the processes of one launch do."""

    job: Job
    curve: Job
    """The same on other texts."""
    batches: tuple[int, ...]
    """A curve for each batch size, of a process."""
    output: str
    """The file that the first process writes."""

    @classmethod
    def read(cls, text: str) -> Launch:
        """From JSON."""
        given = json.loads(text)
        return cls(Job(**given.pop("job")), Job(**given.pop("curve")), tuple(given.pop("batches")), **given)


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
            found["curves"][batch] = _curve(launch.curve, batch)
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


def _curve(job: Job, batch_size: int) -> list[float]:
    """The mean loss of each epoch."""
    from loratory.engine.hardware import Hardware
    from loratory.engine.meter import Meter
    from loratory.run import optimize
    from loratory.setup import prepare

    spec = job.spec(batch_size=batch_size, epochs=EPOCHS, dropout=0.0, precision="fp32")
    hardware = Hardware.of(spec.hardware)
    result = optimize(prepare(spec, hardware), Meter(hardware), validated=False)
    return [row["loss"] for row in result.history]


# ------------------------------------------------------------------------------------------------ in the parent


def launched(launch: Launch, processes: int) -> None:
    """Let so many processes do it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(Path(__file__).with_name("scaling.py"))
    subprocess.run([*launcher, script, "--worker", json.dumps(asdict(launch))], check=True)


def measure(job: Job, counts: list[int], methods: list[str], *, words: int, work: Path) -> list[Row]:
    """A row for each method and number of processes; 1 is the first number."""
    most, rows = max(counts), []
    threads = str(max(1, (os.cpu_count() or 1) // most))
    os.environ.setdefault("OMP_NUM_THREADS", threads)  # the same for all: torchrun gives several processes one each
    curve = replace(job, data=str(work / "curve"))
    write_made_up(Path(curve.data), job.workload, count=job.batch_size * most * STEPS, words=words)
    for count in counts:
        data = work / f"{job.workload}-{count}"
        examples = (job.warmup + job.steps) * job.batch_size * count
        write_made_up(data, job.workload, count=examples, words=words)
        for method in methods:
            alone = tuple(job.batch_size * several for several in counts[1:])
            launch = Launch(
                replace(job, method=method, data=str(data)),
                replace(curve, method=method),
                alone if count == 1 else (job.batch_size,),
                str(work / f"{method}-{count}.json"),
            )
            launched(launch, count)
            rows.append({"method": method, "processes": count, **json.loads(Path(launch.output).read_text("utf8"))})
            said = f"{rows[-1]['examples'] / rows[-1]['seconds']:,.1f} examples/s"
            print(f"{job.workload} {method}, {count} processes: {said}", file=sys.stderr, flush=True)
    return [_judged(row, rows, job) for row in rows]


def _judged(row: Row, rows: list[Row], job: Job) -> Row:
    """The row with its efficiency, and how far its losses are from those of one process."""
    count, (one, *_) = row["processes"], (other for other in rows if other["method"] == row["method"])
    speed = row["examples"] / row["seconds"]
    judged = {
        **row,
        "examples_per_second": speed,
        "step_seconds": row["seconds"] / job.steps,
        "efficiency": speed / (count * one["examples"] / one["seconds"]),
    }
    if count == 1:
        return {**judged, "difference": None, "same": True}
    curve, alone = row["curves"][str(job.batch_size)], one["curves"][str(job.batch_size * count)]
    difference = max(abs(a - b) / abs(b) for a, b in zip(curve, alone, strict=True))
    return {**judged, "curve": curve, "alone": alone, "difference": difference, "same": difference < TOLERANCE}


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
            cells += [f"{row['difference']:.1e}" + ("" if row["same"] else ", too far")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
