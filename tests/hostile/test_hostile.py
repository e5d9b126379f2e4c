"""Hostile files: nothing of them runs, each is refused by one line with the right code, soon, and in little memory.

Each group is tried in a forked process with an audit hook, through the command line's own `main`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_files
import pickles
import pytest
import tables
import tokenizer_files
from corpus import Bench, Case
from watching import Watch

from loratory.cli import main
from loratory.data import packaged
from loratory.models import pth, pth_child

GROUPS: dict[str, list[Case]] = {
    "pickles": pickles.CASES,
    "config.json": model_files.CONFIGS,
    "tokenizers": tokenizer_files.TOKENIZERS,
    "weights": model_files.WEIGHTS,
    "adapters": model_files.ADAPTERS,
    "study files and tables": tables.TABLES,
    "archives": tables.ARCHIVES,
}
CASES = [case for cases in GROUPS.values() for case in cases]

SECONDS = 5.0
MEMORY = 512 << 10  # KiB, as Linux counts a process's largest resident size
PACKED = packaged.Packaged(
    name="hostile", kind="data", description="", requirement="hostile==1", filename="hostile.zip", sha256="",
    members={"LICENSE": "LICENSE"}, licence="", citation="", inner_archive="inner.tar.gz",
    inner_members={"a.txt": "a.txt"}, contents_sha256={"a.txt": "0" * 64},
)  # fmt: skip


def test_the_corpus_is_large_and_no_case_stands_in_it_twice(record_property: Any) -> None:
    record_property("hostile files", len(CASES))
    assert len({case.what for case in CASES}) == len(CASES) >= 150
    assert f" {len(CASES)} of them" in (Path(__file__).parents[2] / "SECURITY.md").read_text("utf8")
    counts = {name: len(cases) for name, cases in GROUPS.items()}
    print(f"{len(CASES)} hostile files: {counts}")


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_of_a_hostile_file_runs_and_each_is_refused(
    group: str, forked: Any, tmp_path: Path, tiny_bert: Path, run_directory: Path, tiny_csv: Path
) -> None:
    def work() -> int:
        watch = started(tmp_path)
        before = largest()
        for number, case in enumerate(GROUPS[group]):
            bench = Bench(tmp_path / str(number), tiny_bert, run_directory, tiny_csv)
            bench.place.mkdir()
            result = tried(case, bench, watch) | {"memory": largest() - before}
            print(json.dumps([case.what, result]))
        return 0

    fork = forked(work)
    out, err = fork.communicate()
    assert fork.returncode == 0, err
    found = dict(json.loads(line) for line in out.splitlines())
    assert list(found) == [case.what for case in GROUPS[group]]
    wrong = {case.what: said for case in GROUPS[group] if (said := found[case.what])["code"] not in case.codes}
    assert wrong == {}
    assert {what: one["seen"] for what, one in found.items() if one["seen"] or one["ran"]} == {}
    unclear = {
        what: one for what, one in found.items()
        if one["out"] or not one["err"].startswith("error: ") or one["err"].count("\n") != 1
    }  # fmt: skip
    assert unclear == {}
    assert {what: one["seconds"] for what, one in found.items() if one["seconds"] > SECONDS} == {}
    assert max(one["memory"] for one in found.values()) < MEMORY


def started(place: Path) -> Watch:
    """The hook, in a process that writes below `place` alone and has no other standard input than an empty one."""
    tempfile.tempdir = str(place)
    os.environ["LORATORY_DATA"] = str(place / "data")
    sys.stdin = io.StringIO("")
    return Watch(place)


def computed() -> float:
    """CPU seconds of this process and those that it has ended: a busy machine does not change them."""
    return sum(os.times()[:4])


def largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tried(case: Case, bench: Bench, watch: Watch) -> dict[str, Any]:
    """What became of one case."""
    os.chdir(bench.place)
    given = case.make(bench)
    watch.taken()  # what made it is none of its doing
    names = {"given": given, "model": bench.model, "adapter": bench.adapter, "table": bench.table, "place": bench.place}
    out, err = io.StringIO(), io.StringIO()
    begins = computed()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), prepared(case, bench):
        code = main([word.format(**names) for word in case.command.split()])
    seconds = computed() - begins
    left = [str(path) for path in bench.place.rglob("it-ran")]
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds, "seen": watch.taken(),
            "ran": left}  # fmt: skip


@contextlib.contextmanager
def prepared(case: Case, bench: Bench) -> Any:
    """A `.pth` is read in this process where the case says so; the packaged item of a case is known by its name."""
    with pytest.MonkeyPatch.context() as patch:
        if not case.confined:
            patch.setattr(pth, "_asked", lambda path: json.loads(json.dumps(pth_child.told(str(path)))))
        if (bench.place / "sha256").is_file():
            patch.setenv("LORATORY_DATA", str(bench.place / "data"))
            item = dataclasses.replace(PACKED, sha256=(bench.place / "sha256").read_text())
            patch.setitem(packaged.PACKAGED, "hostile", item)
        yield


def _naive() -> None:
    pickle.loads(pickles.called("builtins", "eval", "1 + 1"))


def _evaluated() -> None:
    eval("1 + 1")


def _connected() -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 9), timeout=0.1):
        pass


def _imported(place: Path) -> None:
    (place / "stranger.py").write_text("x = 1\n")
    sys.path.insert(0, str(place))
    __import__("stranger")


def _written(place: Path) -> None:
    (place.parent / "elsewhere").write_text("x")


DEEDS: dict[str, tuple[Callable[..., Any], str]] = {
    "a pickle that is loaded": (lambda place: _naive(), "pickle.find_class"),
    "code that is run": (lambda place: _evaluated(), "exec"),
    "a connection": (lambda place: _connected(), "socket."),
    "a process": (lambda place: subprocess.run(["true"], check=True), "subprocess.Popen"),
    "a shell": (lambda place: os.system("true"), "os.system"),
    "a fork": (lambda place: os.fork() or os._exit(0), "os.fork"),
    "a module from elsewhere": (_imported, "module stranger"),
    "a file that is written elsewhere": (_written, "open"),
    "a file that is removed elsewhere": (lambda place: os.rename(__file__ + ".none", "x"), "os.rename"),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_the_hook_sees(deed: str, forked: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def work() -> int:
        watch = started(place)
        (place / "mine").write_text("x")
        assert watch.taken() == []
        with contextlib.suppress(FileNotFoundError):
            DEEDS[deed][0](place)
        print("\n".join(watch.taken()))
        return 0

    fork = forked(work)
    out, err = fork.communicate()
    assert fork.returncode == 0, err
    assert DEEDS[deed][1] in out


WHOLE = [
    Case("a model", model_files.spoilt(lambda folder: None), model_files.TRAIN),
    Case("an adapter", model_files.spoilt(lambda folder: None, adapter=True), model_files.PREDICT),
    Case("a study's file", pickles.written(b"name: s"), "data list"),
]


def test_what_is_whole_passes_the_same_doors(
    forked: Any, tmp_path: Path, tiny_bert: Path, run_directory: Path, tiny_csv: Path
) -> None:
    """Or all would be refused for a fault that is not theirs."""

    def work() -> int:
        watch = started(tmp_path)
        for number, case in enumerate(WHOLE):
            bench = Bench(tmp_path / str(number), tiny_bert, run_directory, tiny_csv)
            bench.place.mkdir()
            said = tried(case, bench, watch)
            assert (said["code"], said["seen"]) == (0, []), said
        for number, content in enumerate((pickles.archive(pickles.state()), pickles.old(pickles.state()))):
            path = tmp_path / f"{number}.pth"
            path.write_bytes(content)
            assert {name: tensor.tolist() for name, tensor in pth.read_pth(path).items()} == {"weight": [0.0] * 4}
        return 0

    fork = forked(work)
    _, err = fork.communicate()
    assert fork.returncode == 0, err
