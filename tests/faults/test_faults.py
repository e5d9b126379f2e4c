"""Killed, stopped or refused at any operation on the disk: what was committed is whole, and the same call goes on."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from disturbed import FAILED, RECORD, code_of, committed, forked, left
from faulting import faults, kill, refuse
from writing import Fault, UnarmedError, Writes, compiled

from loratory.errors import StorageError
from loratory.store.directory import read_run
from loratory.study.layout import agrees, as_json, read_json, sealed
from loratory.study.lock import launcher, launching

PLANS = {number: as_json({"schema": 2, "number": number}) for number in range(3)}


def planned(directory: Path) -> None:
    """What a study does with its files, without the runs."""
    with launching(directory) as tell:
        for text in PLANS.values():
            tell.held.write(directory / "selections" / "plan.json", text)


def over_failure(output: Path) -> None:
    """A run where the record of a failed one stands."""
    if not output.exists() and not (output.parent / ".run.replaced").exists():
        committed(output, FAILED)
    committed(output)


def said(work: Callable[[], object]) -> str | None:
    """What the store refuses with, in one line; None where it does not."""
    try:
        work()
    except StorageError as error:
        return str(error) if "\n" not in str(error) else pytest.fail(str(error))
    return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork among threads, which rest
@pytest.mark.parametrize("work", [committed, over_failure])
def test_a_run_that_is_killed_anywhere_is_whole_or_not_there_and_made_again(tmp_path: Path, work: Any) -> None:
    kills = 0
    for at in count(1):
        output = tmp_path / str(at) / "run"

        def killed(output: Path = output, at: int = at) -> None:
            with faults(at, kill):
                work(output)

        ended = code_of(forked(killed))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        kills += 1
        stood = output.exists() and read_run(output).status == "completed"
        stamp = output.stat().st_ino if stood else None
        work(output)
        assert read_run(output) == RECORD
        assert stamp in (None, output.stat().st_ino)  # what was committed is not made again
        assert left(output.parent) == []
    assert kills > 15


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_study_s_file_that_is_killed_anywhere_is_an_old_or_a_new_one(tmp_path: Path) -> None:
    for at in count(1):
        directory = tmp_path / str(at)

        def killed(directory: Path = directory, at: int = at) -> None:
            with faults(at, kill):
                planned(directory)

        if code_of(forked(killed)) == 0:
            break
        path = directory / "selections" / "plan.json"
        assert not path.exists() or path.read_text("utf8") in PLANS.values()
        assert launcher(directory) is None
        planned(directory)
        assert path.read_text("utf8") == PLANS[2]
        assert left(directory) == [".study.fence", ".study.lock"]
    assert at > 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("work", [committed, over_failure])
def test_a_disk_that_refuses_anything_is_one_line_and_nothing_is_lost(tmp_path: Path, work: Any, number: int) -> None:
    refused = 0
    for at in count(1):
        output = tmp_path / str(at) / "run"
        with faults(at, refuse(number)) as operations:
            refused += said(lambda output=output: work(output)) is not None
        if operations.count < at:
            break
        assert not output.exists() or read_run(output).id == "one"
        work(output)
        assert read_run(output) == RECORD
        assert left(output.parent) == []
    assert refused > 10


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_no_damage_to_a_run_or_a_document_passes_for_another_content(tmp_path: Path, damage: str) -> None:
    output = tmp_path / "run"
    committed(output)
    for path in output.iterdir():
        content = path.read_bytes()
        for bad in damaged(content, damage):
            path.write_bytes(bad)
            if said(lambda: read_run(output)) is None:
                assert path.name == "manifest.json"
                assert read_run(output) == RECORD
        path.write_bytes(content)
    document = sealed({"schema": 2, "margin": 0.01, "seeds": [0, 1], "name": "änd\n"})
    path = tmp_path / "plan.json"
    for bad in damaged(as_json(document).encode(), damage):
        path.write_bytes(bad)
        try:
            found = read_json(path)
        except StorageError:
            continue
        assert agrees(found)
        assert {key: found[key] for key in ("schema", "margin", "seeds", "name")} == json.loads(
            as_json({key: value for key, value in document.items() if key != "sha256"})
        )


def damaged(content: bytes, how: str) -> list[bytes]:
    if how == "cut":
        return [content[:size] for size in range(len(content))]
    return [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(len(content))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_eight_launchers_one_at_a_time_holds_a_study(tmp_path: Path) -> None:
    def launch() -> None:
        with launching(tmp_path):
            number = int((tmp_path / ".study.fence").read_text())
            (tmp_path / f"held-{number}").touch(exist_ok=False)
            os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
            time.sleep(0.02)
            (tmp_path / "inside").unlink()

    ended = [code_of(pid) for _ in range(3) for pid in [forked(launch) for _ in range(8)]]
    assert set(ended) <= {0, 5}
    assert len(list(tmp_path.glob("held-*"))) == ended.count(0) > 0


NO_MOUNT = 77


def mounted(folder: Path, size: str, *, again: bool = False) -> None:
    """A file system in memory of so many bytes at `folder`; or the same one, with so many from now on."""
    remount, private = 0x20, 0x44000  # MS_REMOUNT, MS_REC | MS_PRIVATE
    libc = ctypes.CDLL(None, use_errno=True)
    if not again:
        folder.mkdir()
        newns = 0x20000  # CLONE_NEWNS: what is mounted is this process's, and ends with it
        if libc.unshare(newns) or libc.mount(None, b"/", None, private, None):
            os._exit(NO_MOUNT)
    flags = remount if again else 0
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()):
        os._exit(NO_MOUNT)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems in memory are Linux's")
def test_a_disk_of_64_kib_is_one_line_and_with_room_the_same_command_completes(
    flags: list[str], tmp_path: Path, forked: Any
) -> None:
    from loratory.cli import main

    small = tmp_path / "small"
    command = ["train", *flags, "--output", str(small / "new" / "run")]

    def work() -> int:
        mounted(small, "64k")
        committed(small / "run")
        refused = main(command)
        there: tuple[Any, ...] = (read_run(small / "run") == RECORD,)
        sys.stderr.write("--\n")
        mounted(small, "64m", again=True)
        went_on = main(command)
        there += read_run(small / "run") == RECORD, read_run(small / "new" / "run").status, left(small)
        sys.stdout.write("--\n" + json.dumps([refused, went_on, there]))
        return 0

    process = forked(work)
    out, err = process.communicate()
    if process.returncode == NO_MOUNT:
        pytest.skip("this user may mount nothing")
    assert process.returncode == 0, err
    assert json.loads(out.partition("--\n")[2]) == [5, 0, [True, True, "completed", []]]
    said_first = err.partition("--\n")[0].splitlines()
    assert [line for line in said_first if "error" in line] == said_first[-1:]
    assert "No space left on device" in said_first[-1]
    assert list(small.iterdir()) == []  # here nothing was mounted


def test_a_damaged_run_of_a_study_is_set_aside_and_run_again(
    ran: Path, study_file: Any, records: Any, caplog: pytest.LogCaptureFixture, without_page: None
) -> None:
    from loratory.cli import main

    before = records(ran)
    damaged_run = sorted(path for path in (ran / "runs").iterdir())[0]
    (damaged_run / "history.jsonl").write_bytes(b"x")
    plan = ran / "plan.json"
    content = plan.read_bytes()
    plan.write_bytes(content.replace(b'"margin": 0.01', b'"margin": 0.31'))
    assert main(["study", "run", str(study_file()), "--output", str(ran)]) == 0
    after = records(ran)
    assert {name: one.quality for name, one in after.items()} == {name: one.quality for name, one in before.items()}
    assert plan.read_bytes() == content
    assert (ran / "runs" / f".{damaged_run.name}.damaged-1" / "history.jsonl").read_bytes() == b"x"
    aside = [line for line in caplog.messages if "set aside as" in line]
    assert len(aside) == 2


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"])


FAULTS = [
    *[Fault(number, cut=cut) for number in (0, errno.ENOSPC, errno.EIO, errno.EROFS) for cut in (False, True)],
    Fault(errno.ENOSPC, cut=True, for_good=True),
]


@pytest.fixture(scope="module")
def writes_are_met(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where they cannot be."""
    try:
        compiled()
    except UnarmedError as error:
        pytest.skip(str(error))

    def armed() -> None:
        Writes(tmp_path_factory.mktemp("armed"), 1, Fault())

    if code_of(forked(armed)) != 0:
        pytest.skip("the system allows no filter")


def at_a_write(work: Callable[[Path], None], output: Path, at: int, fault: Fault) -> int:
    """How a process ends that has a fault at a write; with 0 where there was no such write."""

    def disturbed() -> None:
        writes = Writes(output.parent, at, fault)
        work(output)
        if writes.count >= at:
            os._exit(WENT_ON)

    return code_of(forked(disturbed))


WENT_ON = 9


@pytest.mark.usefixtures("writes_are_met")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("work", [committed, over_failure])
def test_at_each_write_a_fault_leaves_a_run_whole_or_not_there(tmp_path: Path, work: Any, fault: Fault) -> None:
    for at in count(1):
        output = tmp_path / str(at) / "run"
        ended = at_a_write(work, output, at, fault)
        if ended == 0:
            break
        assert ended == (5 if fault.error else -signal.SIGKILL)
        assert not output.exists() or read_run(output).id == "one"
        work(output)
        assert read_run(output) == RECORD
        assert left(output.parent) == []
    assert at > 4


@pytest.mark.usefixtures("writes_are_met")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("fault", [Fault(), Fault(errno.EIO), Fault(errno.ENOSPC, cut=True, for_good=True)], ids=str)
def test_at_writes_of_other_libraries_a_fault_leaves_a_run_that_goes_on(
    tmp_path: Path, spec: Any, fault: Fault
) -> None:
    """transformers' Python, safetensors' Rust and Arrow's C++."""
    from loratory.run import train

    def training(output: Path) -> None:
        train(spec("head", epochs=1), output=output)

    training(tmp_path / "whole")
    whole = read_run(tmp_path / "whole")
    for at in (2, 4, 6):
        output = tmp_path / str(at) / "run"
        assert at_a_write(training, output, at, fault) == (5 if fault.error else -signal.SIGKILL)
        training(output)
        assert read_run(output).quality == whole.quality
        assert left(output.parent) == []
