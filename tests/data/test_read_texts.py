"""Texts to label come out of a file as they went in, one for each row, in order."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.data.files import read_texts
from loratory.errors import DataError

WRITABLE = st.characters(codec="utf-8", exclude_characters="\0")
SEVERAL = st.lists(st.text(WRITABLE), min_size=1, max_size=6)
PLAIN = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], exclude_characters="\ufeff")


def write(path: Path, texts: list[str]) -> None:
    """A table with the texts in the column `review`, between two others."""
    rows = [{"id": str(n), "review": text, "stars": "5"} for n, text in enumerate(texts)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, ["id", "review", "stars"], delimiter="," if path.suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL
            )
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@settings(max_examples=40, deadline=None)
@given(texts=SEVERAL)
def test_a_column_comes_out_as_it_went_in(suffix: str, texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path, texts)
        asked = read_texts(path, "review")
        found, others = asked.texts, asked.others
        assert found == texts
        assert others == [{"id": str(n), "stars": "5"} for n in range(len(texts))]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(PLAIN).filter(str.strip), max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    mark=st.booleans(),
)
def test_each_line_of_a_text_file_is_a_text(lines: list[str], end: str, last: bool, mark: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "A.TXT"
        content = end.join(lines) + (end if last and lines else "")
        path.write_bytes((("\ufeff" if mark else "") + content).encode())
        assert read_texts(path, "review").texts == lines


def test_it_needs_no_label_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("review\nw1\n", encoding="utf-8")
    assert read_texts(path, "review").texts == ["w1"]


BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "no such column": ("a.csv", b"text,label\nx,1\n", ["'review'", "'text'"]),
    "no such key": ("a.jsonl", b'{"review": "x"}\n{"text": "y"}\n', ["2", "'review'"]),
    "a number": ("a.jsonl", b'{"review": "x"}\n{"review": 3}\n', ["2", "'review'", "no text"]),
    "nothing": ("a.jsonl", b'{"review": null}\n', ["1", "'review'", "no text"]),
    "not utf-8": ("a.txt", b"caf\xe9\n", ["not UTF-8 at byte 3"]),
    "nul": ("a.txt", b"a\0b\n", ["NUL"]),
    "unknown format": ("a.doc", b"x\n", ["'.doc'"]),
    "empty table": ("a.csv", b"", ["empty"]),
    "header only": ("a.csv", b"review\n", ["only a header"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_holds_no_texts_is_one_line(case: str, tmp_path: Path) -> None:
    name, content, says = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_texts(path, "review")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert [part for part in says if part not in message] == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv"):
        with pytest.raises(DataError, match="no such file"):
            read_texts(tmp_path / name, "review")
