"""JSON that somebody nested deep is damaged, wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loratory.disk.json_text import MAX_DEPTH, depth, parsed
from loratory.disk.manifest import read_manifest
from loratory.errors import DamagedError, StorageError
from loratory.report.evidence import _history as history_of_report
from loratory.store.record import RunRecord
from loratory.study.document import Summary
from loratory.study.layout import read_json
from loratory.study.lock import _named
from loratory.study.results import _history


def nested(levels: int) -> str:
    """An object whose one value is nested so deep."""
    return '{"files": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
def test_what_is_nested_deep_is_no_text_of_ours(levels: int) -> None:
    with pytest.raises(ValueError, match="nested"):
        parsed(nested(levels))


def test_what_is_not_nested_deeper_is_read() -> None:
    assert parsed(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    assert [depth(value, most=8) for value in (1, [], {"a": [1]}, [[], [[{}]]], json.loads(nested(50)))] == [
        0, 1, 2, 4, 9,
    ]  # fmt: skip


@pytest.mark.parametrize("levels", [900, 100_000])
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("manifest.json", lambda path: read_manifest(path.parent), DamagedError),
        ("run.json", RunRecord.read, StorageError),
        ("history.jsonl", lambda path: _history(path.parent), StorageError),
        ("history.jsonl", history_of_report, StorageError),
        ("plan.json", read_json, DamagedError),
        ("summary.json", lambda path: Summary.read(path.parent), StorageError),
    ],
)
def test_a_file_that_is_nested_deep_is_an_error_that_names_it(
    name: str, read: Callable[[Path], object], error: type[StorageError], levels: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(nested(levels), encoding="utf8")
    with pytest.raises(error, match=rf"{name}.*(damaged|nested)"):
        read(tmp_path / name)


def test_who_runs_a_study_is_not_known_from_a_file_that_is_nested_deep(tmp_path: Path) -> None:
    (tmp_path / ".study.json").write_text(nested(100_000), encoding="utf8")
    assert _named(tmp_path) is None
