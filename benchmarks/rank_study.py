"""A whole study of ranks, from the command to its report: runs one by one, in cohorts, and what Trainer would need.

    python benchmarks/rank_study.py --device cuda
    python benchmarks/rank_study.py --device cpu --set models=DIR --set train.limit=200 --steps 4 --warmup 2

Each way is the command `loratory study run` in a process of its own, timed from its start to its end, Python's and the
libraries' start included; data and tokens are there before, as a first run that is not timed leaves them. Hugging
Face's Trainer with PEFT, tuned, is measured on the steps of one of the study's runs (rank 8); its time for the study is
its rate times the examples of all runs, in one process and not compiled, without set-up, evaluation and saving, which
it would need too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from engine import STEPS, Workers
from workloads import Job, write_texts

from loratory import units
from loratory.engine.hardware import Hardware
from loratory.flags import assignment
from loratory.models.source import pretrained
from loratory.spec import HardwareSpec
from loratory.store.record import RunRecord
from loratory.study.reading import read_study

WAYS = ("off", "auto", "16")
"""What `--cohort` is given."""


def main() -> None:
    """Run, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("studies/ranks.yaml"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ways", default=",".join(WAYS), help="of --cohort")
    parser.add_argument("--workers", type=int, help="processes that tune; final runs go one by one all the same")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, help="a JSON file with all that was measured")
    options = parser.parse_args()
    settings = [*options.settings, f"train.device={options.device}"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ranks-") as place:
        work = Path(place)
        trainer = trainer_rate(options, settings, work)
        print(f"Trainer with PEFT: {trainer:,.0f} examples/s", file=sys.stderr, flush=True)
        first_run(options.study, work / "first", settings)
        for way in options.ways.split(","):
            code, seconds = study_run(options.study, work / way, way, settings, options.workers)
            rows.append({"cohort": way, "exit": code, "seconds": seconds, **counted(work / way)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if code:
                raise SystemExit(f"--cohort {way}: exit {code} after {seconds:.0f} s")  # the rows are on standard error
    environment = Hardware.of(HardwareSpec(device=options.device)).record()
    if options.output is not None:
        said = {"environment": environment, "trainer_examples_per_second": trainer, "workers": options.workers}
        said["rows"] = rows
        options.output.write_text(json.dumps(said), encoding="utf8")
    print(f"{options.study.stem}, {environment['device']}\n\n{table(rows, trainer)}")


def study_run(file: Path, output: Path, cohort: str, settings: list[str], workers: int | None) -> tuple[int, float]:
    """Exit code and seconds of the whole command."""
    command = [sys.executable, "-m", "loratory", "study", "run", str(file), "--output", str(output)]
    command += ["--cohort", cohort, "--yes", *(word for one in settings for word in ("--set", one))]
    if workers is not None:
        command += ["--workers", str(workers), "--alone"]
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return done.returncode, time.perf_counter() - begin


def first_run(file: Path, output: Path, settings: list[str]) -> None:
    """Train a head for an epoch on the study's texts, so that their tokens are there."""
    spec, _ = read_study(file, list(map(assignment, settings)))
    command = [sys.executable, "-m", "loratory", "train", "--method", "head", "--epochs", "1", "--output", str(output)]
    command += ["--dataset", spec.data[0], "--model", spec.models[0], "--device", str(spec.train["device"])]
    for name in ("max_length", "limit"):
        if name in spec.train:
            command += [f"--{name.replace('_', '-')}", str(spec.train[name])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def counted(study: Path) -> dict[str, Any]:
    """Of the study's records: how many runs there are, how each was trained, and on how many examples in all."""
    records = [RunRecord.read(path) for path in sorted((study / "runs").glob("*/run.json"))]
    sizes = Counter(1 if record.cohort is None else len(record.cohort["members"]) for record in records)
    passes = {record.id if record.cohort is None else record.cohort["name"]: record for record in records}
    return {
        "runs": len(records),
        "failed": sum(record.status != "completed" for record in records),
        "alone": sizes[1],
        "sizes": dict(sorted(sizes.items())),
        "examples": sum(int(record.cost.get("examples") or 0) for record in records),
        "spent": {
            kind: spent([one for one in passes.values() if (one.cohort is None) == (kind == "alone")])
            for kind in ("alone", "cohorts")
        },
    }


def spent(records: list[RunRecord]) -> dict[str, float]:
    """What runs, or cohorts of which one run stands for all, took in all: seconds of each phase, steps, and shapes that
    were captured."""
    total: Counter[str] = Counter(count=len(records))
    for record in records:
        engine = record.environment.get("engine") or {}
        if not record.cost or not engine:
            continue  # it failed before its first step
        total["graphs"] += engine["graphs"]
        total["capture_seconds"] += engine.get("capture_seconds", 0.0)
        total["steps"] += int(record.cost["steps"])
        if record.cohort is None:
            phases = {phase: record.cost[f"{phase}_seconds"] for phase in ("setup", "train", "eval", "total")}
        else:
            members = len(record.cohort["members"])
            phases = {phase: seconds * members for phase, seconds in record.cohort["share_seconds"].items()}
        total.update({f"{phase}_seconds": seconds for phase, seconds in phases.items()})
    return dict(total)


def trainer_rate(options: argparse.Namespace, settings: list[str], work: Path) -> float:
    """Examples a second that Trainer with PEFT, tuned, trains on texts of the study."""
    spec, _ = read_study(options.study, list(map(assignment, settings)))
    warmup, steps = STEPS[options.device, "short"]
    warmup, steps = options.warmup or warmup, options.steps or steps
    batch = int(spec.train.get("batch_size", 32))
    write_texts(work / "short", "short", dataset=spec.data[0], count=(warmup + steps) * batch)
    model = str(pretrained(spec.models[0]).place)
    job = Job("tuned", "lora", "short", model, str(work / "short"), options.device, batch, warmup, steps, {})
    return steps * batch / float(Workers(work).measure(job)["seconds"])


def table(rows: list[dict[str, Any]], trainer: float) -> str:
    """A Markdown table."""
    lines = [
        "| --cohort | runs | of them alone | the whole command | examples/s in all | Trainer + PEFT, by its rate "
        "| over it |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        needed = row["examples"] / trainer
        cells = [
            row["cohort"],
            f"{row['runs']:,}",
            f"{row['alone']:,}",
            units.duration(row["seconds"]),
            f"{row['examples'] / row['seconds']:,.0f}",
            f"{units.duration(needed)} ({trainer:,.0f} examples/s)",
            f"{needed / row['seconds']:.1f}×",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
