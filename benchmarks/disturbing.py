"""What benchmarks of faults share: a tiny model and texts, processes that are killed, and what came of it."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that was forked cannot use what its parent started

import disturbed as steps
import torch
from tiny import BERT, WORDS, word_tokenizer

import loratory.finish
from loratory.store.directory import read_run
from loratory.store.record import RunRecord

Work = Callable[[Path], None]
"""What is disturbed, given its place."""


def quiet() -> None:
    """One thread, no log, and a study without charts, which a fork cannot draw."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    loratory.finish.write = lambda directory, summary, inputs=None: [directory / "report.html"]


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


def begun(work: Callable[[], None]) -> int:
    """A forked process that does it, quietly, in a group of its own."""

    def quietly() -> None:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        work()

    return steps.forked(quietly)


def ended(work: Callable[[], None], *, after: float | None = None) -> int:
    """How a forked process that does it ends; it and all that it started are killed after so many seconds."""
    pid = begun(work)
    if after is not None:
        time.sleep(after)
        with suppress(ProcessLookupError):  # it had not come to its own group yet, or is over
            os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    return steps.code_of(pid)


def together(count: int, work: Callable[[int], Counter[str]]) -> Counter[str]:
    """The sum of what `count` processes find, each given its number."""
    pipes = []
    for number in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            try:
                os.write(writing, json.dumps(work(number)).encode())
            except BaseException:  # noqa: BLE001  # it is told, and ends here: what it found is missing, which is noticed
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
    found = Counter[str]()
    for reading in pipes:
        with os.fdopen(reading, encoding="utf8") as pipe:
            found.update(json.loads(pipe.read()))
    for _ in range(count):
        os.wait()
    return found


def runs_in(place: Path) -> dict[str, tuple[int, RunRecord]]:
    """Committed runs that completed, each verified, with the inode of its directory."""
    found = [place] if (place / "run.json").exists() else [one for one in place.glob("runs/*") if one.name[0] != "."]
    records = {one.name: (one.stat().st_ino, read_run(one)) for one in found}
    return {name: one for name, one in records.items() if one[1].status == "completed"}


def scores(place: Path) -> dict[str, Any]:
    """What an undisturbed one must equal."""
    return {one.id: one.quality for _, one in runs_in(place).values()}


def tried(
    work: Work,
    place: Path,
    expected: dict[str, Any],
    found: Counter[str],
    disturbed: int,
    earlier: dict[str, tuple[int, RunRecord]] | None = None,
) -> None:
    """After a process was disturbed: the same call once more, and what came of it.

    Args:
        earlier: runs that were committed when it was disturbed, where others went on then.
    """
    found["processes disturbed"] += disturbed != 0
    before = {**runs_in(place), **(earlier or {})}
    if ended(lambda: work(place)) != 0:
        found["repaired by hand"] += 1
        return
    after = runs_in(place)
    found["committed before"] += len(before)
    found["lost"] += sum(name not in after for name in before) + sum(name not in scores(place) for name in expected)
    found["doubled"] += sum(name in after and after[name][0] != inode for name, (inode, _) in before.items())
    found["other results"] += scores(place) != expected


def said(found: Counter[str]) -> str:
    """In words, what must be 0 first."""
    keys = ("processes disturbed", "committed before", "lost", "doubled", "other results", "repaired by hand")
    found = Counter({key: value for key, value in found.items() if value})
    first = {key: found[key] for key in keys if found["processes disturbed"]}
    return ", ".join(f"{key} {value:,}" for key, value in {**first, **found}.items())
