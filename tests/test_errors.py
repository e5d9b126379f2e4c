"""The words of errors and notes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from loratory.data import make_dataset
from loratory.errors import DataError, counted
from loratory.spec import DataSpec


def test_a_count_and_its_noun_agree() -> None:
    assert [counted(number, "text") for number in (0, 1, 2, 2114)] == ["0 texts", "1 text", "2 texts", "2,114 texts"]


def test_one_text_is_no_plural(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)), encoding="utf8")
    test.write_text("text,label\ntext 3,1\nnew,0\nnewer,1\n", encoding="utf8")
    with caplog.at_level(logging.WARNING, "loratory"):
        make_dataset(DataSpec(dataset=str(train), test=str(test)))
    assert "1 text of test also in train; kept" in caplog.text
    train.write_text("text,label\nx,0\ny,1\nz,1\n", encoding="utf8")
    with pytest.raises(DataError, match="has 1 distinct text, too few"):
        make_dataset(DataSpec(dataset=str(train)))
