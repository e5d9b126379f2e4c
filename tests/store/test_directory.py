"""A run's directory is complete or not there, and whatever else stands at its place is left alone."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import loratory
from loratory.disk.manifest import verified
from loratory.errors import StorageError
from loratory.store.directory import REMEDY, claim, commit, find_run, place_of, read_run, staging, whole_run
from loratory.store.record import RunRecord

RECORD = RunRecord(
    id="tiny-standard-s0",
    fingerprint="f" * 64,
    status="completed",
    spec={"model": "tiny", "training": {"lr": 1e-4}},
    data={"labels": ["bäd", 1]},
    parameters={"total": 3},
    cost={"train_seconds": 0.1},
    quality={"test": {"accuracy": 1.0}},
    environment={"device": "cpu"},
)


FAILED = dataclasses.replace(RECORD, status="failed", error="on purpose")


def committed(output: Path, record: RunRecord = RECORD) -> Path:
    with staging(output) as stage:
        (stage / "run.json").write_text(record.to_json(), encoding="utf8")
        (stage / "model.safetensors").write_bytes(b"weights")
        commit(stage, output)
    return output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A committed run of two files."""
    return committed(tmp_path / "deep" / "run")


def test_a_committed_run_reads_back_as_it_was(run: Path) -> None:
    assert read_run(run) == RECORD
    assert find_run(run) == RECORD
    assert RECORD.labels == ("bäd", "1")
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "model.safetensors", "run.json"]
    assert [path.name for path in run.parent.iterdir()] == ["run"]  # no stage is left
    manifest = json.loads((run / "manifest.json").read_text())["files"]
    assert manifest["model.safetensors"]["bytes"] == 7


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging(tmp_path / "run") as stage:
            (stage / "run.json").write_text(RECORD.to_json(), encoding="utf8")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    assert find_run(tmp_path / "run") is None


@pytest.mark.parametrize("name", ["run.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["a flipped byte", "missing", "a link"])
def test_damage_to_any_file_is_noticed(run: Path, name: str, damage: str) -> None:
    path = run / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "a flipped byte":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "a link":
        (run.parent / "elsewhere").write_bytes(content)
        path.symlink_to(run.parent / "elsewhere")
    with pytest.raises(StorageError, match=f"{name} is .*; {REMEDY}$"):
        read_run(run)


@pytest.mark.parametrize("read", [read_run, find_run, whole_run, verified])
def test_what_no_manifest_vouches_for_is_refused_and_left_where_it_is(run: Path, read: Any, snapshot: Any) -> None:
    (run / ".nfs0001").write_text("a file system's own", encoding="utf8")
    read(run)
    (run / "adapter_config.json").write_text("{}", encoding="utf8")
    before = snapshot(run.parent)
    with pytest.raises(StorageError, match=r"adapter_config.json is not named by the manifest beside it; take it away"):
        read(run)
    assert snapshot(run.parent) == before  # a run that may be whole is not trained again


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"files": {}}', '{"files": {"run.json": 3}}', '{"files": {"../run.json": {"sha256": "0"}}}'],
)
def test_a_manifest_that_vouches_for_nothing_is_no_commit(run: Path, manifest: str) -> None:
    (run / "manifest.json").write_text(manifest)
    with pytest.raises(StorageError, match=f"; {REMEDY}$"):
        read_run(run)


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (2, 0o664, 0o775)])
def test_a_committed_run_is_as_open_as_the_umask_says(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with staging(tmp_path / "run") as stage:
            (stage / "run.json").write_text(RECORD.to_json(), encoding="utf8")
            (stage / "model.safetensors").touch(0o600)
            commit(stage, tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run", *(tmp_path / "run").iterdir())}
    assert modes == {"run": folder, "run.json": file, "model.safetensors": file, "manifest.json": file}


def test_a_directory_without_manifest_is_no_run(run: Path, tmp_path: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(StorageError, match="holds no committed run"):
        read_run(run)
    with pytest.raises(StorageError, match="is not empty and holds no run"):
        find_run(run)
    with pytest.raises(StorageError, match="is not a directory"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize("change", [{"schema": 2}, {"status": "splendid"}, {"unknown": 1}])
def test_a_record_of_another_schema_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**RECORD.to_dict(), **change}))
    with pytest.raises(StorageError):
        RunRecord.read(path)


def test_a_place_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, snapshot: Any) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    for place in (file, full):
        with pytest.raises(StorageError, match="choose another --output"):
            find_run(place)
    with pytest.raises(StorageError, match="choose another --output"), staging(file / "below"):
        raise AssertionError("not reached")
    assert snapshot(tmp_path) == before


def test_a_commit_replaces_no_other_run(run: Path, snapshot: Any) -> None:
    before = snapshot(run.parent)
    with pytest.raises(StorageError, match=r"cannot write .*run: .*; choose another --output"):
        committed(run)
    assert snapshot(run.parent) == before


def test_a_commit_may_fill_an_empty_directory(tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    assert find_run(output) is None
    with staging(output) as stage:
        (stage / "run.json").write_text(RECORD.to_json(), encoding="utf8")
        commit(stage, output)
    assert read_run(output) == RECORD


def test_the_record_of_a_failed_run_gives_way_to_the_next(tmp_path: Path) -> None:
    output = committed(tmp_path / "run", FAILED)
    assert read_run(committed(output, FAILED)) == FAILED
    assert read_run(committed(output)) == RECORD
    assert names(tmp_path) == ["run"]


def test_a_commit_that_fails_leaves_the_record_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = committed(tmp_path / "run", FAILED)
    rename = os.rename

    def refuse(old: Path, new: Path) -> None:
        if old.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StorageError, match=r"cannot write .*run: Input/output error; choose another"):
        committed(output)
    assert read_run(output) == FAILED
    assert names(tmp_path) == ["run"]


def test_a_full_disk_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), staging(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room; the same command goes on"),
        (errno.EDQUOT, "make room; the same command goes on"),
        (errno.EROFS, "choose another --output"),
        (errno.EIO, "choose another --output"),
    ],
)
def test_what_the_disk_refuses_names_the_place_that_people_know(number: int, remedy: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for held in (False, True):
        with ExitStack() as stack:
            if held:
                stack.enter_context(claim(run))
            with pytest.raises(StorageError) as caught, staging(run) as stage:
                raise OSError(number, os.strerror(number), str(stage / "state.safetensors"))
        assert place_of(stage) == run
        assert str(caught.value) == f"cannot write {run}: {os.strerror(number)}; {remedy}"


def test_a_claim_leaves_nothing_and_shuts_others_out(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with claim(output):
        with pytest.raises(StorageError, match="another process is training"), claim(output):
            raise AssertionError("not reached")
        with claim(tmp_path / "other"):
            pass
    assert names(tmp_path) == []
    with claim(output):
        pass


@pytest.mark.parametrize("replaced_by_new", [False, True])
def test_a_claim_clears_away_what_a_killed_process_left_there(replaced_by_new: bool, tmp_path: Path) -> None:
    output = committed(tmp_path / "run", FAILED)
    output.rename(tmp_path / ".run.replaced")  # killed between the two renames of a commit, or after them
    if replaced_by_new:
        committed(output)
    (tmp_path / ".run.lock").touch()
    for left in (".run.ab_12xyz.partial", ".run.b.ab_12xyz.partial", ".run.b.replaced"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").touch()
    with claim(output):
        assert find_run(output) == (RECORD if replaced_by_new else FAILED)
    assert names(tmp_path) == [".run.b.ab_12xyz.partial", ".run.b.replaced", "run"]  # what run.b's process left stays


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(loratory.__file__).parents[1])}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys
from pathlib import Path
from loratory.store.directory import claim, staging
with claim(Path(sys.argv[1])), staging(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_claim_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with python(HOLD, str(output)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="another process is training"), claim(output):
            raise AssertionError("not reached")
        holder.kill()
    assert len(names(tmp_path)) == 3  # its lock's file, its number and its stage
    with claim(output):
        pass
    assert names(tmp_path) == []


RACE = """
import os, sys, time
from pathlib import Path
from loratory.disk.manifest import verified
from loratory.errors import StorageError
from loratory.store.directory import claim
output = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
until, held = time.monotonic() + 1, 0
while time.monotonic() < until:
    try:
        with claim(output):
            os.close(os.open(output, os.O_CREAT | os.O_EXCL))  # fails if another process is in here
            time.sleep(0.0005)
            output.unlink()
            held += 1
    except StorageError as error:
        assert "another process" in str(error), error
print(held)
"""


def test_of_many_processes_one_at_a_time_holds_a_claim(tmp_path: Path) -> None:
    racers = [python(RACE, str(tmp_path / "run")) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None  # communicate would write to it
    held = [int(racer.communicate(timeout=30)[0] or -1) for racer in racers]
    assert sum(held) > 50
    assert min(held) >= 0
    assert names(tmp_path) == []
