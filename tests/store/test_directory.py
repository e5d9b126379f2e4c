"""A run's directory is complete or not there, and whatever else stands at its place is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import StorageError
from loratory.store.directory import commit, find_run, read_run, replace_failed, staging
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


def committed(output: Path) -> Path:
    with staging(output) as stage:
        (stage / "run.json").write_text(RECORD.to_json(), encoding="utf8")
        (stage / "model.safetensors").write_bytes(b"weights")
        commit(stage, output)
    return output


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
    with pytest.raises(StorageError, match=f"{name}.* the run is damaged"):
        read_run(run)


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"files": {}}', '{"files": {"run.json": 3}}', '{"files": {"../run.json": {"sha256": "0"}}}'],
)
def test_a_manifest_that_vouches_for_nothing_is_no_commit(run: Path, manifest: str) -> None:
    (run / "manifest.json").write_text(manifest)
    with pytest.raises(StorageError):
        read_run(run)


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
    with pytest.raises(StorageError, match="cannot commit the run"):
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


def test_the_record_of_a_failed_run_can_be_taken_away(run: Path) -> None:
    replace_failed(run)
    assert find_run(run) is None
