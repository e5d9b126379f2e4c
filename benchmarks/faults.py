"""Processes killed, stopped and refused on purpose: `python benchmarks/faults.py [--seconds S]` prints what came of it.

The long form of tests/faults: the store's own steps at every operation, then a tiny run that keeps checkpoints and a
tiny study (random weights), killed at every operation and every write in turn or refused there, and killed with their
process group at random moments, for as many seconds as are given.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from disturbing import Work, ended, inputs, quiet, said, scores, steps, together, tried
from faulting import faults, kill, refuse
from writing import Fault, Writes, compiled

from loratory.cli import main
from loratory.disk.manifest import verified
from loratory.errors import Interrupted, StorageError
from loratory.methods import spec_from_flags
from loratory.run import train
from loratory.spec import RunSpec
from loratory.store.directory import read_run
from loratory.study.document import Summary
from loratory.study.layout import read_json
from loratory.study.selection import read_selection

STUDY = """
name: tiny
data: [{data}]
models: [{model}]
methods: [{{name: head, tune: {{lr: [1e-3, 5e-3]}}}}]
seeds: [0]
train: {{epochs: 1, max_length: 16, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""


REFUSALS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)

STUDYS = ("plan.json", "summary.json", "selections")
"""Files of a study's own that are read again."""


class Counted(Protocol):
    """How many operations there were."""

    @property
    def count(self) -> int: ...


Faulty = Callable[[int, Path], AbstractContextManager[Counted]]
"""(number, place) -> inside, a fault comes at the operation with this number, on whatever belongs to the place."""


def _refusing(number: int) -> Faulty:
    return lambda at, place: faults(at, refuse(number))


OPERATIONS: dict[str, list[Faulty]] = {
    "killed": [lambda at, place: faults(at, kill)],
    "refused": [_refusing(number) for number in REFUSALS],
}

WRITES = {
    "killed": [Fault()],
    "refused": [Fault(number) for number in REFUSALS],
    "cut in half, then killed or refused for good": [
        Fault(number, cut=True, for_good=number != 0) for number in (0, errno.ENOSPC, errno.EIO)
    ],
}


def writing(fault: Fault) -> Faulty:
    """This fault at a write to the place or beside it."""
    return lambda at, place: nullcontext(Writes(place.parent, at, fault))


class Trial(Protocol):
    """(work's name, work, folder, scores, when to end, processes at a time) -> what came of it, which it prints."""

    def __call__(
        self, name: str, work: Work, folder: Path, expected: dict[str, Any], until: float, at_once: int, /
    ) -> Counter[str]: ...


def every(how: str, what: str, ways: list[Faulty]) -> Trial:
    """At each operation of a kind in turn, in each of these ways, the fault comes; and the call is made again."""

    def trial(
        name: str, work: Work, folder: Path, expected: dict[str, Any], until: float, at_once: int
    ) -> Counter[str]:
        """One kind of work, by all processes."""

        def some(first: int) -> Counter[str]:
            """What one of the processes finds: it begins at its own operation."""
            found = Counter[str]()
            for number, faulty in enumerate(ways):
                at, whole = first + 1, False
                while time.monotonic() < until and not whole:
                    place = folder / f"{name}-{how}-{what}-{number}-{at}" / "out"
                    code = ended(partial(disturbed, work, place, faulty, at))
                    whole = code == 0
                    if not whole:
                        found[f"exit {code}"] += code != -signal.SIGKILL
                        tried(work, place, expected, found, code)
                        shutil.rmtree(place.parent, ignore_errors=True)
                        at += at_once
                found["time was up"] += not whole
            return found

        found = together(at_once, some)
        where = f"at {what}s, until time was up" if found.pop("time was up", 0) else f"at each {what}"
        went_on = f"; exit {WENT_ON} is one that went on" if found[f"exit {WENT_ON}"] else ""
        print(f"{name}, {how} {where}: {said(found)}{went_on}", flush=True)
        return found

    return trial


WENT_ON = 9


def disturbed(work: Work, place: Path, faulty: Faulty, at: int) -> None:
    """Ends the process with 0 where there was no such operation."""
    with faulty(at, place) as operations:
        work(place)
    os._exit(0 if operations.count < at else WENT_ON)


def random_moments(
    name: str, work: Work, folder: Path, expected: dict[str, Any], until: float, at_once: int
) -> Counter[str]:
    """Killed with its process group at random moments, and called again."""

    def some(seed: int) -> Counter[str]:
        found, draw, number = Counter[str](), random.Random(seed), 0
        begun = time.monotonic()
        assert ended(lambda: work(folder / f"{name}-whole-{seed}" / "out")) == 0
        seconds = time.monotonic() - begun
        while time.monotonic() < until:
            number += 1
            place = folder / f"{name}-random-{seed}-{number}" / "out"
            moment = draw.uniform(0, seconds)
            tried(work, place, expected, found, ended(partial(work, place), after=moment))
        return found

    found = together(at_once, some)
    print(f"{name}, killed with its process group at random moments: {said(found)}")
    return found


def flips(what: str, folder: Path, read: Callable[[Path], Any], at_once: int, most: int) -> Counter[str]:
    """Every file of `folder`, one of its bytes changed, or cut short before it: `read` notices, or gives the same."""

    def some(first: int) -> Counter[str]:
        """Every `at_once`-th place, from the `first` on, in a copy of its own."""
        found, copy = Counter[str](), folder.with_name(f"{folder.name}-{first}")
        shutil.copytree(folder, copy)
        whole = read(copy)
        for path in sorted(path for path in copy.rglob("*.*") if path.is_file() and not path.name.startswith(".")):
            content = path.read_bytes()
            stride = max(1, len(content) // most) if most else 1
            for how, position in product(("flipped", "cut"), range(0, len(content), stride)[first::at_once]):
                changed = bytes([content[position] ^ 1]) + content[position + 1 :] if how == "flipped" else b""
                path.write_bytes(content[:position] + changed)
                try:
                    same = read(copy) == whole
                except StorageError:
                    found["noticed"] += 1
                else:
                    found["harmless" if same else "unnoticed"] += 1
            path.write_bytes(content)
        return found

    found = together(at_once, some)
    places = f"at most {most:,} places of a file" if most else "at every byte"
    print(f"{what}, bytes flipped and files cut, {places}: {said(found)}")
    return found


def all_of_a_run(folder: Path) -> Any:
    """What a reader takes from a run, or from a checkpoint."""
    if (folder / "run.json").exists():
        read_run(folder)
    names = verified(folder)
    return {name: (folder / name).read_bytes() for name in names}


def all_of_a_study(folder: Path) -> Any:
    """What a reader takes from a study's own files."""
    plan = read_json(folder / "plan.json")
    chosen = {path.stem: read_selection(folder, path.stem) for path in sorted((folder / "selections").iterdir())}
    return {key: plan[key] for key in plan if key != "sha256"}, chosen, Summary.read(folder)


def launchers(folder: Path, rounds: int) -> None:
    """Eight processes want to hold one study's directory, so many times."""
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
    """Stopped at each operation in turn, its lock removed by hand, and continued when a successor has committed."""
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
    """The clock stands a year back, and a year ahead."""
    now, same = time.time, []
    for years in (-1, 1):
        place = folder / f"clock{years}" / "out"

        def shifted(years: int = years, place: Path = place) -> None:
            time.time = lambda: now() + years * 365 * 86_400
            run(place)

        same.append(ended(shifted) == 0 and scores(place) == expected)
    print(f"clock a year back and a year ahead: the same run {same}")


def main_() -> None:
    """Disturb, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="for the runs and studies")
    parser.add_argument("--rounds", type=int, default=200, help="of eight launchers")
    parser.add_argument("--at-once", type=int, default=2, help="processes that are disturbed at a time")
    parser.add_argument("--places", type=int, default=0, help="of each file, where not every byte is flipped")
    parser.add_argument("--writes", action="store_true", help="fault each write of a run and a study, and try no more")
    asked = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATORY_DATA"] = str(folder / "data")
        model, data = inputs(folder)
        (folder / "study.yaml").write_text(STUDY.format(data=data, model=model))
        run, study = works(folder).values()
        for one in (run, study):  # undisturbed, and what it imports is loaded
            one(folder / one.__name__ / "out")
        if not asked.writes:
            the_store(folder, asked)
        compiled()
        at_writes = [every(how, "write", [writing(fault) for fault in given]) for how, given in WRITES.items()]
        at_operations = [every(how, "operation", ways) for how, ways in OPERATIONS.items()]
        trials = at_writes if asked.writes else [*at_operations, random_moments, *at_writes]
        share, found = asked.seconds / (2 * len(trials)), Counter[str]()
        for one in (run, study):
            expected = scores(folder / one.__name__ / "out")
            for trial in trials:
                found += trial(one.__name__, one, folder, expected, time.monotonic() + share, asked.at_once)
        print(f"in all: {said(found)}")
        if not asked.writes:
            clocks(run, folder, scores(folder / "run" / "out"))


def the_store(folder: Path, asked: argparse.Namespace) -> None:
    """Its steps by themselves: locks, fences, and damage to what it reads."""
    launchers_at, stopped_at = folder / "launchers", folder / "stopped"
    launchers(launchers_at, asked.rounds)
    stopped_holders(stopped_at)
    checkpoint = checkpoint_of(spec_in(folder), folder / "kept" / "run")
    others = [one.name for one in (folder / "study" / "out").iterdir() if one.name not in STUDYS]
    own = shutil.copytree(folder / "study" / "out", folder / "own", ignore=shutil.ignore_patterns(*others))
    for what, place, read in (
        ("a run", folder / "run" / "out", all_of_a_run),
        ("a checkpoint", checkpoint, all_of_a_run),
        ("a study's own files", Path(own), all_of_a_study),
    ):
        flips(what, place, read, asked.at_once, asked.places)


def spec_in(folder: Path) -> RunSpec:
    """The tiny run."""
    flags = {"dataset": str(folder / "tiny.csv"), "epochs": 3, "max_length": 16, "lr": 0.005}
    given = {"model": str(folder / "model"), **flags, "device": "cpu", "precision": "fp32"}
    return spec_from_flags({"method": "lora", "rank": 1, **given})


def works(folder: Path) -> dict[str, Work]:
    """The tiny run and the tiny study, by their names."""

    def run(place: Path) -> None:
        train(spec_in(folder), output=place, checkpoint_every="2 steps")

    def study(place: Path) -> None:
        if code := main(["study", "run", str(folder / "study.yaml"), "--output", str(place)]):
            os._exit(code)

    return {"run": run, "study": study}


def checkpoint_of(spec: RunSpec, output: Path) -> Path:
    """A checkpoint that an interrupted run left."""
    with suppress(Interrupted):
        train(spec, output=output, on_step=lambda progress: signal.raise_signal(signal.SIGTERM))
    (found,) = output.parent.glob(".run.checkpoint-*")
    return found.rename(output.parent / "checkpoint")


if __name__ == "__main__":
    main_()
