"""Part of scaling.py: a study on Ray, each of whose runs has a device to itself.

On CUDA Ray starts on this host and sees the first N GPUs. On a CPU it is a cluster of N simulated nodes of one core
each. Every run leaves a mark of when it was under way, where, and how many GPUs it saw.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import loratory
from loratory.store.directory import PREDICTIONS, read_run
from loratory.study import cluster
from loratory.study.jobs import Job
from loratory.study.tasks import Done, Task

Row = dict[str, Any]

STUDY = """
name: scaling
data: [{data}]
models: [{model}]
methods:
  - {{name: standard}}
  - {{name: lora, rank: {ranks}}}
seeds: {seeds}
keep: none
train: {{epochs: {epochs}, max_length: 128, device: {device}, threads: {threads}, deterministic: {fixed}}}
"""

MARKS = "placed"
"""The folder in a study's directory in which its runs leave their marks."""


@dataclass(frozen=True)
class Study:
    """A study to carry out in a process of its own."""

    file: str
    directory: str
    device: str
    devices: int
    output: str
    """The file in which the process says when it did what."""


def placed(task: Task, environment: dict[str, str]) -> Done:
    """Carry a run out as a worker of the cluster does, and leave its mark."""
    begin = time.time()
    done = cluster._carry_out(task, environment)
    (job,) = task.jobs
    mark = {"run": job.id, "begin": begin, "end": time.time(), "process": os.getpid(), **_place(job)}
    folder = job.output.parents[1] / MARKS
    folder.mkdir(exist_ok=True)
    (folder / f"{job.id}.json").write_text(json.dumps(mark), encoding="utf8")
    return done


def _place(job: Job) -> dict[str, Any]:
    import ray

    node = ray.get_runtime_context().get_node_id()
    if job.spec.hardware.device != "cuda":
        return {"device": node, "visible": 1}
    return {"device": str(torch.cuda.get_device_properties(0).uuid), "visible": torch.cuda.device_count()}


def work(study: Study) -> None:
    """Carry the study out; when it was planned and when it ended."""
    from loratory.study.launch import launch
    from loratory.study.reading import read_study

    if study.device == "cpu":
        _nodes(study.devices)
    carry_out, cluster._carry_out = cluster._carry_out, placed
    times = {"begin": time.time()}
    try:
        launch(
            *read_study(Path(study.file)), Path(study.directory), executor="ray", cohort="off",
            planned=lambda plan, slots, finals: times.update(planned=time.time()),
            told=lambda plan, job: None,
        )  # fmt: skip
    finally:
        cluster._carry_out = carry_out
    Path(study.output).write_text(json.dumps({**times, "end": time.time()}), encoding="utf8")


def _nodes(count: int) -> None:
    """A cluster of so many nodes of this machine, which ends with this process."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(count - 1):
        nodes.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = str(nodes.address)


# ------------------------------------------------------------------------------------------------ in the parent


def environment(study: Study) -> dict[str, str]:
    """What holds where the study is carried out: its devices, its code, and a cluster of its own."""
    here = [str(Path(loratory.__file__).parents[1]), str(Path(__file__).parent)]
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(study.devices)))} if study.device == "cuda" else {}
    return {
        "PYTHONPATH": os.pathsep.join([*here, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", str(Path(study.directory).parent)),
        **seen,
    }


def launched(study: Study) -> None:
    """Carry the study out in a process that sees so many devices."""
    script = str(Path(__file__).with_name("scaling.py"))
    command = [sys.executable, script, "--study", json.dumps(asdict(study))]
    subprocess.run(command, check=True, env={**os.environ, **environment(study)})


def measure(file: Path, device: str, counts: list[int], work: Path) -> list[Row]:
    """A row for each number of devices; 1 is the first number."""
    rows: list[Row] = []
    for count in counts:
        study = Study(str(file), str(work / f"study-{count}"), device, count, str(work / f"study-{count}.json"))
        launched(study)
        rows.append(_row(study, json.loads(Path(study.output).read_text("utf8"))))
        print(f"study, {count} devices: {rows[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    first = results(work / "study-1")
    return [
        {
            **row,
            "efficiency": rows[0]["seconds"] / (row["devices"] * row["seconds"]),
            "same": results(work / f"study-{row['devices']}") == first,
        }
        for row in rows
    ]


def _row(study: Study, times: dict[str, float]) -> Row:
    marks = [json.loads(path.read_text("utf8")) for path in Path(study.directory).glob(f"{MARKS}/*.json")]
    return {
        "devices": study.devices,
        "seconds": times["end"] - times["planned"],
        "before_seconds": times["planned"] - times["begin"],
        "runs": len(marks),
        "run_seconds": sum(mark["end"] - mark["begin"] for mark in marks) / len(marks),
        "processes": len({(mark["device"], mark["process"]) for mark in marks}),
        "by_device": sorted(Counter(mark["device"] for mark in marks).values()),
        "alone": alone(marks),
        "marks": marks,
    }


def alone(marks: list[Row]) -> bool:
    """Whether each run saw one device, on which no other was under way."""
    ordered = sorted(marks, key=lambda mark: (mark["device"], mark["begin"]))
    apart = (one["device"] != other["device"] or one["end"] <= other["begin"] for one, other in pairwise(ordered))
    return all(apart) and all(mark["visible"] == 1 for mark in marks)


def results(directory: Path) -> dict[str, Any]:
    """What of each run's record and predictions may not depend on where it was carried out."""
    found = {}
    for path in directory.glob("runs/[!.]*"):
        record = read_run(path)
        counts = {key: record.cost[key] for key in ("steps", "examples", "tokens", "padded_tokens")}
        scores = (record.status, record.spec, record.data, record.parameters, record.quality, counts)
        found[record.id] = (*scores, (path / PREDICTIONS).read_bytes())
    return found


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| devices | runs | s from the plan to the last run | efficiency | a run s | processes | runs of each device "
        "| each alone on its device | as on one device | s before the plan |",
        "|--:|--:|--:|--:|--:|--:|---|---|---|--:|",
    ]
    for row in rows:
        cells = [f"{row['devices']}", f"{row['runs']}", f"{row['seconds']:.1f}", f"{row['efficiency']:.2f}"]
        cells += [f"{row['run_seconds']:.2f}", f"{row['processes']}", ", ".join(map(str, row["by_device"]))]
        cells += ["yes" if row[key] else "NO" for key in ("alone", "same")]
        lines.append(f"| {' | '.join([*cells, format(row['before_seconds'], '.1f')])} |")
    return lines
