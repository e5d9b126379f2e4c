"""Processes killed, stopped and refused on purpose: `python benchmarks/faults.py [--seconds S]` prints what came of it.

The long form of tests/faults: the store's own steps at every operation, then a tiny run and a tiny study (random
weights), killed at every operation in turn and at random moments, for as many seconds as are given.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import errno
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "faults")]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import test_faults as steps
import torch
from faulting import faults, kill, refuse
from tiny import BERT, WORDS, word_tokenizer

import loratory.finish
from loratory.cli import main
from loratory.errors import StorageError
from loratory.methods import spec_from_flags
from loratory.run import train
from loratory.store.directory import read_run
from loratory.store.record import RunRecord

STUDY = """
name: tiny
data: [{data}]
models: [{model}]
methods: [{{name: head, tune: {{lr: [1e-3, 5e-3]}}}}]
seeds: [0]
train: {{epochs: 1, max_length: 16, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""

Work = Callable[[Path], None]


def inputs(folder: Path) -> tuple[Path, Path]:
    """A tiny BERT and 60 texts."""
    from transformers import BertConfig, BertModel

    model, data = folder / "model", folder / "tiny.csv"
    torch.manual_seed(0)
    BertModel(BertConfig(**{**BERT, "num_hidden_layers": 1})).save_pretrained(model)
    word_tokenizer().save_pretrained(model)
    with data.open("w", newline="") as file:
        rows = [(f"{WORDS[n]} {WORDS[90 - n % 7]} {WORDS[n % 2]}", ("bad", "good")[n % 2]) for n in range(60)]
        csv.writer(file).writerows([("text", "label"), *rows])
    return model, data


def ended(work: Callable[[], None], *, after: float | None = None) -> int:
    """How a forked process that does it ends; killed after so many seconds."""
    pid = os.fork()
    if pid == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 1
        try:
            work()
            code = 0
        except StorageError:
            code = 5
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return steps.code_of(pid)


def runs_in(place: Path) -> dict[str, tuple[int, RunRecord]]:
    """Committed runs that completed, each verified, with the inode of its directory."""
    found = [place] if (place / "run.json").exists() else [one for one in place.glob("runs/*") if one.name[0] != "."]
    records = {one.name: (one.stat().st_ino, read_run(one)) for one in found}
    return {name: one for name, one in records.items() if one[1].status == "completed"}


def scores(place: Path) -> dict[str, Any]:
    """What an undisturbed one must equal."""
    return {one.id: one.quality for _, one in runs_in(place).values()}


def tried(work: Work, place: Path, expected: dict[str, Any], found: Counter[str], disturbed: int) -> None:
    """After a process was disturbed: the same call once more, and what came of it."""
    found["processes disturbed"] += disturbed != 0
    before = runs_in(place)
    if ended(lambda: work(place)) != 0:
        found["repaired by hand"] += 1
        return
    after = runs_in(place)
    found["committed before"] += len(before)
    found["lost"] += sum(name not in after for name in before) + sum(name not in scores(place) for name in expected)
    found["doubled"] += sum(name in after and after[name][0] != inode for name, (inode, _) in before.items())
    found["other results"] += scores(place) != expected


def every_operation(name: str, work: Work, folder: Path, expected: dict[str, Any], until: float) -> None:
    found, at, whole = Counter[str](), 0, False
    while time.monotonic() < until and not whole:
        at += 1
        place = folder / f"{name}-{at}" / "out"

        def killed(at: int = at, place: Path = place) -> None:
            with faults(at, kill):
                work(place)

        code = ended(killed)
        whole = code == 0
        if not whole:
            tried(work, place, expected, found, code)
    print(f"{name}, killed at operation 1 to {at - whole}{'' if whole else ' (time was up)'}: {said(found)}")


def random_moments(name: str, work: Work, folder: Path, expected: dict[str, Any], until: float) -> None:
    found, draw, number = Counter[str](), random.Random(0), 0
    begun = time.monotonic()
    assert ended(lambda: work(folder / f"{name}-whole" / "out")) == 0
    seconds = time.monotonic() - begun
    while time.monotonic() < until:
        number += 1
        place = folder / f"{name}-random-{number}" / "out"
        tried(work, place, expected, found, ended(lambda p=place: work(p), after=draw.uniform(0, seconds)))  # type: ignore[misc]
    print(f"{name}, killed at {number} random moments: {said(found)}")


def refused(name: str, work: Work, folder: Path, expected: dict[str, Any], until: float, every: int) -> None:
    found = Counter[str]()
    for number in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE):
        at, whole = 1, False
        while time.monotonic() < until and not whole:
            place = folder / f"{name}-{number}-{at}" / "out"

            def faulty(at: int = at, place: Path = place, number: int = number) -> None:
                with faults(at, refuse(number)) as operations:
                    work(place)
                os._exit(0 if operations.count < at else 9)

            code = ended(faulty)
            whole = code == 0
            found[f"exit {code}"] += not whole
            if not whole:
                tried(work, place, expected, found, code)
            at += every
    print(f"{name}, refused at every {every} operation: {said(found)}; exit 9 is a run that went on")


def flips(run: Path) -> None:
    found = Counter[str]()
    record = read_run(run)
    for path in sorted(run.iterdir()):
        content = path.read_bytes()
        stride = max(1, len(content) // 4000)
        for how in ("flipped", "cut"):
            for position in range(0, len(content), stride):
                changed = bytes([content[position] ^ 1]) + content[position + 1 :] if how == "flipped" else b""
                path.write_bytes(content[:position] + changed)
                try:
                    same = read_run(run) == record
                except StorageError:
                    found["noticed"] += 1
                else:
                    found["harmless" if same and path.name == "manifest.json" else "unnoticed"] += 1
        path.write_bytes(content)
    print(f"bytes flipped and files cut, at most 4,000 places of a file: {said(found)}")


def launchers(folder: Path, rounds: int) -> None:
    from loratory.study.lock import launching

    def launch() -> None:
        with launching(folder):
            number = int((folder / ".study.fence").read_text())
            (folder / f"held-{number}").touch(exist_ok=False)
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            time.sleep(0.005)
            (folder / "inside").unlink()

    codes = Counter[int]()
    for _ in range(rounds):
        codes.update(steps.code_of(pid) for pid in [steps.forked(launch) for _ in range(8)])
    alike = len(list(folder.glob("held-*"))) == codes[0]
    print(f"8 launchers, {rounds} rounds: {codes[0]} held it, {codes[5]} were refused, two at once {codes[1]}, "
          f"numbers all different: {alike}")  # fmt: skip


def stopped_holders(folder: Path) -> None:
    theirs = dataclasses.replace(steps.RECORD, parameters={"total": 1})
    stops = over = 0
    while True:
        output = folder / str(stops + 1) / "run"
        pid = steps.forked(lambda: steps.stopped(output, theirs, stops + 1))  # noqa: B023
        if os.WIFEXITED(os.waitpid(pid, os.WUNTRACED)[1]):
            break
        stops += 1
        (output.parent / ".run.lock").unlink(missing_ok=True)
        steps.committed(output)
        before = read_run(output), output.stat().st_ino
        os.kill(pid, signal.SIGCONT)
        steps.code_of(pid)
        over += (read_run(output), output.stat().st_ino) != before
    print(f"holders stopped at each of {stops} operations, their lock removed, a successor committed: "
          f"commits over it {over}")  # fmt: skip


def clocks(run: Work, folder: Path, expected: dict[str, Any]) -> None:
    now, same = time.time, []
    for years in (-1, 1):
        place = folder / f"clock{years}" / "out"

        def shifted(years: int = years, place: Path = place) -> None:
            time.time = lambda: now() + years * 365 * 86_400
            run(place)

        same.append(ended(shifted) == 0 and scores(place) == expected)
    print(f"clock a year back and a year ahead: the same run {same}")


def said(found: Counter[str]) -> str:
    keys = ("processes disturbed", "committed before", "lost", "doubled", "other results", "repaired by hand")
    first = {key: found[key] for key in keys if found["processes disturbed"]}
    return ", ".join(f"{key} {value:,}" for key, value in {**first, **found}.items())


def main_() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="for the runs and studies")
    parser.add_argument("--rounds", type=int, default=200, help="of eight launchers")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    loratory.finish.write = lambda directory, summary: [directory / "report.html"]  # a fork draws no charts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATORY_DATA"] = str(folder / "data")
        model, data = inputs(folder)
        (folder / "study.yaml").write_text(STUDY.format(data=data, model=model))
        flags = {"model": str(model), "dataset": str(data), "epochs": 1, "max_length": 16, "lr": 0.005}
        spec = spec_from_flags({"method": "head", **flags, "device": "cpu", "precision": "fp32"})

        def run(place: Path) -> None:
            train(spec, output=place)

        def study(place: Path) -> None:
            if code := main(["study", "run", str(folder / "study.yaml"), "--output", str(place)]):
                os._exit(code)

        for one in (run, study):  # undisturbed, and what it imports is loaded
            one(folder / one.__name__ / "out")
        launchers_at, stopped_at = folder / "launchers", folder / "stopped"
        launchers(launchers_at, asked.rounds)
        stopped_holders(stopped_at)
        flips(folder / "run" / "out")
        share = asked.seconds / 6
        for one in (run, study):
            expected = scores(folder / one.__name__ / "out")
            for trial in (every_operation, random_moments):
                trial(one.__name__, one, folder, expected, time.monotonic() + share)
            refused(one.__name__, one, folder, expected, time.monotonic() + share, 1 if one is run else 7)
        clocks(run, folder, scores(folder / "run" / "out"))


if __name__ == "__main__":
    main_()
