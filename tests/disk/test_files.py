"""A small file is written whole, or stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loratory.disk.files import write_durably
from loratory.errors import StorageError


def test_a_file_is_replaced_with_the_modes_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.txt"
    write_durably(path, "first\n")
    write_durably(path, "zweite Größe\n")
    assert path.read_bytes() == "zweite Größe\n".encode()
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert os.listdir(path.parent) == ["one.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "one.txt"
    write_durably(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(StorageError, match=r"cannot write .*one\.txt: No space left on device; make room; the same"):
        write_durably(path, "new")
    assert path.read_text("utf8") == "old"
    assert os.listdir(tmp_path) == ["one.txt"]
