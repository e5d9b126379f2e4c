"""A study on Ray, of which a process is killed: `python benchmarks/ray_faults.py [--rounds N]` prints what came of it.

A tiny study (random weights) is carried out on a cluster of two nodes of this machine, each with one CPU core. At a
random moment after it was planned SIGKILL ends the worker of a task, the raylet of the second node, or the launcher,
which is Ray's driver; a launcher that started Ray for itself too. What is left of the study goes on or ends; then the
same call is made again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from faults import Work, begun, inputs, runs_in, said, scores, steps, tried

import loratory.finish
from loratory.cli import main

STUDY = """
name: tiny
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: lora, rank: 1, tune: {{lr: [1e-3, 5e-3]}}}}
seeds: [0]
train: {{epochs: 3, max_length: 16, batch_size: 4, device: cpu, precision: fp32, threads: 1}}
"""

Hit = Callable[[int], bool]
"""Kills something of a study, given its launcher; False where nothing of the kind was there any more."""


def keep_cluster(pipe: Connection) -> None:
    """Hold a cluster: told True, it has a second node and answers its raylet; told False, it ends.

    A process of its own, because Ray's threads do not outlive a fork.
    """
    from ray.cluster_utils import Cluster

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    pipe.send(cluster.address)
    second = None
    while pipe.recv():
        if second is None or second.all_processes["raylet"][0].process.poll() is not None:
            second = cluster.add_node(num_cpus=1)  # beside what is left of the one that was killed
        pipe.send(_raylet(second))
    cluster.shutdown()


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def under_way(launcher: int) -> bool:
    """Whether it has not ended yet."""
    return bool(psutil.Process(launcher).status() != psutil.STATUS_ZOMBIE)


def a_worker(launcher: int) -> bool:
    """Kill the worker of a task, one that comes if there is none; what else goes on."""
    while under_way(launcher):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(("ray::_carry_out", "ray::_known")):
                    process.kill()
                    return True
        time.sleep(0.002)
    return False


def a_launcher(launcher: int) -> bool:
    """Kill the launcher alone."""
    os.kill(launcher, signal.SIGKILL)
    return True


def await_plan(place: Path, launcher: int) -> None:
    """Until runs may begin: before that Ray and the libraries start, for most of the time."""
    while not (place / "plan.json").exists() and under_way(launcher):
        time.sleep(0.01)


def one_round(hit: Hit, work: Work, place: Path, expected: dict[str, Any], found: Counter[str], after: float) -> None:
    """Begin, hit so many seconds after the plan is there, let it end, and make the same call again."""
    launcher = begun(lambda: work(place))
    await_plan(place, launcher)
    time.sleep(after)
    earlier = runs_in(place)
    was_hit = under_way(launcher) and hit(launcher)
    code = steps.code_of(launcher)
    found["went on by itself"] += was_hit and code == 0
    found["ended with an error"] += was_hit and code > 0
    tried(work, place, expected, found, was_hit, earlier)


def measured(work: Work, place: Path, expected: dict[str, Any]) -> float:
    """The seconds that an undisturbed study takes after its plan is there."""
    launcher = begun(lambda: work(place))
    await_plan(place, launcher)
    begin = time.monotonic()
    assert steps.code_of(launcher) == 0
    print(f"on Ray and in one process: the same scores {scores(place) == expected}", flush=True)
    return time.monotonic() - begin


def main_() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=["worker", "raylet", "launcher", "own"])
    parser.add_argument("--seconds", type=float, default=1800, help="after which no further round begins")
    parser.add_argument("--within", type=float, help="seconds after the plan; by default until an undisturbed one ends")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    draw, until = random.Random(asked.seed), time.monotonic() + asked.seconds
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    loratory.finish.write = lambda directory, summary: [directory / "report.html"]  # a fork draws no charts
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATORY_DATA"] = str(folder / "data")
        model, data = inputs(folder)
        study = folder / "study.yaml"
        study.write_text(STUDY.format(data=data, model=model))

        def call(place: Path, *more: str) -> None:
            if code := main(["study", "run", str(study), "--output", str(place), *more]):
                os._exit(code)

        ours, theirs = multiprocessing.Pipe()
        keeper = multiprocessing.get_context("fork").Process(target=keep_cluster, args=(theirs,))
        keeper.start()
        address = ours.recv()
        alone = folder / "alone" / "out"
        call(alone)
        expected = scores(alone)

        def second() -> int:
            ours.send(True)
            return int(ours.recv())

        def on_cluster(place: Path) -> None:
            os.environ["RAY_ADDRESS"] = address
            call(place, "--executor", "ray")

        def on_its_own(place: Path) -> None:
            call(place, "--executor", "ray", "--workers", "2")

        def raylet(launcher: int) -> bool:
            os.kill(second(), signal.SIGKILL)
            return True

        kinds: dict[str, tuple[str, Hit, Work]] = {
            "worker": ("a task's worker", a_worker, on_cluster),
            "raylet": ("a node's raylet", raylet, on_cluster),
            "launcher": ("the launcher", a_launcher, on_cluster),
            "own": ("a launcher that started Ray", a_launcher, on_its_own),
        }
        try:
            second()
            within = asked.within or measured(on_cluster, folder / "whole" / "out", expected)
            found: dict[str, Counter[str]] = {kind: Counter() for kind in asked.kinds}
            for number, kind in product(range(asked.rounds), asked.kinds):
                if time.monotonic() < until:
                    second()
                    place = folder / f"{kind}-{number}" / "out"
                    _, hit, work = kinds[kind]
                    one_round(hit, work, place, expected, found[kind], draw.uniform(0, within))
                    print(kind, said(found[kind]), file=sys.stderr, flush=True)
            for kind in asked.kinds:
                print(f"Ray, {kinds[kind][0]} killed at random moments: {said(found[kind])}")
        finally:
            ours.send(False)
            keeper.join()


if __name__ == "__main__":
    sys.exit(main_())
