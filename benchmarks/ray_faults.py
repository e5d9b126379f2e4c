"""A study on Ray, of which a process is killed: `python benchmarks/ray_faults.py [--rounds N]` prints what came of it.

A tiny study (random weights) is carried out on a cluster of two nodes of this machine, each with one CPU core. At a
random moment after it was planned SIGKILL ends a worker with a job, the raylet of the second node, or the launcher,
which is Ray's driver; a launcher that started Ray for itself too. What is left of the study goes on or ends; then the
same call is made again.
"""

from __future__ import annotations

import argparse
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
from disturbing import Work, begun, inputs, quiet, runs_in, said, scores, steps, tried

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

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
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
    """Kill a worker with a job, one that comes if there is none; what else goes on."""
    while under_way(launcher):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker.do"):
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
    """The seconds in which an undisturbed study carries out its runs, after its plan is there."""
    launcher = begun(lambda: work(place))
    await_plan(place, launcher)
    begin = time.monotonic()
    while len(list(place.glob("runs/*/run.json"))) < len(expected) and under_way(launcher):
        time.sleep(0.01)
    needed = time.monotonic() - begin
    assert steps.code_of(launcher) == 0
    print(f"on Ray and in one process: the same scores {scores(place) == expected}; its runs took {needed:.1f} s")
    return needed


class Clusters:
    """The cluster of two nodes, and the study's call on it, beside one in this process and one that starts Ray."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._pipe, self._study = ours, folder / "study.yaml"
        self._keeper = multiprocessing.get_context("fork").Process(target=keep_cluster, args=(theirs,))
        self._keeper.start()
        self._address = str(ours.recv())

    def end(self) -> None:
        """End the cluster."""
        self._pipe.send(False)
        self._keeper.join()

    def second(self) -> int:
        """The raylet of the second node, which is there afterwards."""
        self._pipe.send(True)
        return int(self._pipe.recv())

    def alone(self, place: Path, *more: str) -> None:
        """The study, in this process."""
        if code := main(["study", "run", str(self._study), "--output", str(place), *more]):
            os._exit(code)

    def on_cluster(self, place: Path) -> None:
        """The study, on the two nodes."""
        os.environ["RAY_ADDRESS"] = self._address
        self.alone(place, "--executor", "ray")

    def on_its_own(self, place: Path) -> None:
        """The study, on Ray as it starts it itself."""
        self.alone(place, "--executor", "ray", "--workers", "2")

    def kill_raylet(self, launcher: int) -> bool:
        """Kill that of the second node."""
        os.kill(self.second(), signal.SIGKILL)
        return True

    def kinds(self) -> dict[str, tuple[str, Hit, Work]]:
        """What is killed, in words, by what, and of what."""
        return {
            "worker": ("a worker with a job", a_worker, self.on_cluster),
            "raylet": ("a node's raylet", self.kill_raylet, self.on_cluster),
            "launcher": ("the launcher", a_launcher, self.on_cluster),
            "own": ("a launcher that started Ray", a_launcher, self.on_its_own),
        }


def main_() -> None:
    """Kill, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=["worker", "raylet", "launcher", "own"])
    parser.add_argument("--seconds", type=float, default=1800, help="after which no further round begins")
    parser.add_argument("--within", type=float, help="seconds after the plan; by default its runs' own")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    quiet()
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATORY_DATA"] = str(folder / "data")
        model, data = inputs(folder)
        (folder / "study.yaml").write_text(STUDY.format(data=data, model=model))
        clusters = Clusters(folder)
        try:
            all_rounds(clusters, folder, asked)
        finally:
            clusters.end()


def all_rounds(clusters: Clusters, folder: Path, asked: argparse.Namespace) -> None:
    """Every kind in turn, so many times."""
    draw, until = random.Random(asked.seed), time.monotonic() + asked.seconds
    clusters.alone(folder / "alone" / "out")
    expected, kinds = scores(folder / "alone" / "out"), clusters.kinds()
    clusters.second()
    within = asked.within or measured(clusters.on_cluster, folder / "whole" / "out", expected)
    found: dict[str, Counter[str]] = {kind: Counter() for kind in asked.kinds}
    for number, kind in product(range(asked.rounds), asked.kinds):
        if time.monotonic() < until:
            clusters.second()
            _, hit, work = kinds[kind]
            place = folder / f"{kind}-{number}" / "out"
            one_round(hit, work, place, expected, found[kind], draw.uniform(0, within))
            print(kind, said(found[kind]), file=sys.stderr, flush=True)
    for kind in asked.kinds:
        print(f"Ray, {kinds[kind][0]} killed at random moments: {said(found[kind])}")


if __name__ == "__main__":
    sys.exit(main_())
