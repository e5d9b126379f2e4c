"""Every bad file is one line that says where and what to do; every good one gives the same examples."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loratory.data import load_source
from loratory.data.files import read_texts
from loratory.errors import DataError, LoratoryError
from loratory.spec import DataSpec

ROWS = [("good, really", "1"), ('she said "no"', "0"), ("two\nlines", "1")]


def spec(path: Path | str, **settings: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": str(path), **settings})


def message(path: Path | str, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        load_source(spec(path, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith((".csv", ".tsv")):
        mark = "," if name.endswith(".csv") else "\t"
        lines = [mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS]
        path.write_bytes(("\ufeff" + "\r\n".join([f"text{mark}label", *lines, "", ""])).encode())
    elif name.endswith(".jsonl"):
        lines = [json.dumps({"text": text, "label": int(label)}) for text, label in ROWS]
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    else:
        table = {"text": [text for text, _ in ROWS], "label": [float(label) for _, label in ROWS]}
        pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    source = load_source(spec(write(tmp_path, name)))
    examples = source.parts["all"]
    assert examples.texts == tuple(text for text, _ in ROWS)
    assert examples.labels == (1, 0, 1)
    assert all(type(label) is int for label in examples.labels)
    assert tuple(examples.rows) == (0, 1, 2)
    assert len(source.digest) == 64


def test_rows_are_counted_as_an_editor_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo",a\n\nthree,\n', encoding="utf-8")
    assert "1 row without a label (line 5)" in message(path)
    path.write_text('text,label\n"one\r\n\r\ntwo",\n"three\nfour\nfive",b\n six,NaN', encoding="utf-8", newline="")
    assert "2 rows without a label (lines 2, 8)" in message(path)
    path.write_bytes(b"text,label\rx,a\rcaf\xe9,b\r")
    assert "line 3" in message(path)


def test_a_format_without_lines_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", None]}), path)
    assert "1 row without a label (row 2)" in message(path)


@pytest.mark.parametrize(
    ("name", "header", "said"),
    [
        ("a.csv", "id;text;label", "looks separated by ';'; save it with commas"),
        ("a.csv", '"text";"label"', "looks separated by ';'; save it with commas"),
        ("a.csv", "text\tlabel", "looks separated by tabs; save it with commas, or name it a.tsv"),
        ("a.tsv", "text,label", "looks separated by commas; save it with tabs, or name it a.csv"),
    ],
)
def test_another_separator_is_named(tmp_path: Path, name: str, header: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(f"\n{header}\r\nx y\r\n", encoding="utf-8", newline="")
    assert message(path).endswith(said)
    assert "looks separated" not in message(path, text_column="review", label_column="stars")


def test_only_the_flag_of_the_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,stars\nx,1\n", encoding="utf-8")
    assert message(path).endswith("no column 'label' (--label-column); it has 'text', 'stars'; name one of these")
    with pytest.raises(DataError, match=r"no column 'review' \(--text-column\); it has 'text', 'stars'; name one"):
        read_texts(path, "review")


BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("a.csv", b"", ["a.csv", "empty"]),
    "empty jsonl": ("a.jsonl", b"\n \n", ["a.jsonl", "empty"]),
    "empty parquet": ("a.parquet", b"", ["a.parquet", "empty"]),
    "header only": ("a.csv", b"text,label\n", ["a.csv", "no rows"]),
    "missing column": ("a.csv", b"review,stars\nx,1\n", ["'text'", "'review', 'stars'", "--text-column"]),
    "missing key": ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}\n', ["line 2", "'label'"]),
    "empty labels": ("a.csv", b"text,label\n" + b"x,\n" * 7 + b"y,a\n", ["7 rows", "(lines 2, 3, 4, 5, 6 and 2 more)"]),
    "nan label": ("a.csv", b"text,label\nx,a\ny,NaN\n", ["1 row", "line 3"]),
    "nan in json": ("a.jsonl", b'{"text": "x", "label": NaN}\n', ["1 row", "line 1"]),
    "null label": ("a.jsonl", b'{"text": "x", "label": null}\n', ["without a label", "line 1"]),
    "empty text": ("a.csv", b"text,label\nx,a\n  ,b\n", ["without a text", "line 3"]),
    "text is a number": ("a.jsonl", b'{"text": 3, "label": 1}\n', ["not a string", "line 1"]),
    "label is an object": ("a.jsonl", b'{"text": "x", "label": {"a": 1}}\n', ["no class name", "line 1"]),
    "infinite label": ("a.jsonl", b'{"text": "x", "label": Infinity}\n', ["no class name", "line 1"]),
    "half a surrogate": ("a.jsonl", b'{"text": "\\ud800", "label": 1}\n', ["surrogate", "line 1"]),
    "not utf-8": ("a.csv", b"text,label\ncaf\xe9,a\n", ["byte 14", "0xe9", "line 2", "UTF-8"]),
    "utf-16": ("a.csv", "text,label\nx,a\n".encode("utf-16"), ["byte 0", "UTF-8"]),
    "ragged": ("a.csv", b"text,label\nx,a\none, two,a\n", ["line 3", "3 cells", "has 2", "quotes"]),
    "too few cells": (
        "a.csv",
        b'text,label\n"x\ny",a\none\n',
        ["line 4 has 1 cell, the header has 2 ('text', 'label'); add what is missing"],
    ),
    "bad json": ("a.jsonl", b'{"text": "x", "label": 1}\n\n{"text": \n', ["line 3", "not JSON"]),
    "deep json": ("a.jsonl", b"[" * 100_000 + b"\n", ["line 1", "not JSON"]),
    "json array": ("a.jsonl", b"[1]\n", ["line 1", "object"]),
    "nul": ("a.csv", b"text,label\nx\0,a\n", ["NUL", "byte 12", "line 2"]),
    "unclosed quote": ("a.csv", b'text,label\nx,a\n"y,a\nz,b\n', ["line 3", "quote"]),
    "unclosed quote in the header": ("a.csv", b'text,"label\nx,a\n', ["line 1: a quote opens", "written twice"]),
    "stray quote": ("a.csv", b'text,label\n"x"y,a\n', ["line 2", "quote"]),
    "not parquet": ("a.parquet", b"text,label\nx,a\n", ["a.parquet", "not a whole Parquet file"]),
    "unknown format": ("a.xlsx", b"x", [".xlsx", ".csv, .tsv, .jsonl, .parquet"]),
    "cut inside the last row": ("a.csv", b"text,label\nx,a\none", ["line 3", "ends inside this line"]),
    "header with a space": (
        "a.csv",
        b"text, label\nx,a\n",
        ["'text', ' label'; did you mean ' label'?"],
    ),
    "header in capitals": ("a.csv", b"Text,label\nx,a\n", ["did you mean 'Text'?"]),
    "several faults": (
        "a.csv",
        b"text,label\nx,a\n,\ny,b\n ,a\nz,\n" + b"w" * 1_000_001 + b",a\n",
        [
            "2 rows without a label (lines 3, 6); add it, or remove the row; "
            "also 2 rows without a text (lines 3, 5), 1 row with a text of more than 1,000,000 characters (line 7)"
        ],
    ),
    "several faults, of labels too": (
        "a.jsonl",
        b'{"text": "x", "label": {}}\n{"text": "", "label": 1}\n{"text": "y", "label": {}}\n',
        ["1 row without a text (line 2); add it, or remove the row; also 2 rows with a label that is no class name"],
    ),
    "numbers, a mark and a word": (
        "a.csv",
        b"text,label\n" + b"x,0.5\n" * 40 + b"y,n/a\nz,word\n",
        [
            "1 row without a label, such as 'n/a' (line 42); ",
            "; also 1 row with a target that is no finite number (line 43)",
        ],
    ),
    "several rows of other lengths": (
        "a.csv",
        b"text,label\none\nx,a\none,two,three\nfour\n",
        [
            "line 2 has 1 cell, the header has 2 ('text', 'label'); add what is missing; also 1 further row with too "
            "many cells (line 4: put quotes around a text that holds the separator), 1 further row with too few cells "
            "(line 5)"
        ],
    ),
    "more rows of another length than are named": (
        "a.csv",
        b"text,label\nx,a\none,two,three\n" + b"one\n" * 7 + b"one,two,three\n",
        [
            "line 3 has 3 cells, the header has 2 ('text', 'label'); put quotes around a text that holds the "
            "separator; also 7 further rows with too few cells (lines 4, 5, 6, 7, 8 and 2 more: add what is missing), "
            "1 further row with too many cells (line 11)"
        ],
    ),
    "a short row, and a quote that is never closed": (
        "a.csv",
        b'text,label\none\ntwo\n"x,a\n',
        ["line 2 has 1 cell", "; add what is missing; also 1 further row with too few cells (line 3)"],
    ),
    "a short row, and a quote that is never closed, of which both are said": (
        "a.csv",
        b'text,label\none\n"x,a\n',
        ["line 2 has 1 cell", "; also 1 further row whose quotes cannot be read (line 3: a quote inside"],
    ),
    "faults of every kind": (
        "a.csv",
        b'text,label\nx,a\none\n ,b\ny,\n,\nthree,of,them\nz,b\n"w,a\n',
        [
            "line 3 has 1 cell, the header has 2 ('text', 'label'); add what is missing; also 1 further row with too "
            "many cells (line 7: put quotes around a text that holds the separator), 1 further row whose quotes cannot "
            "be read (line 9: a quote inside a quoted text is written twice), 2 rows without a label (lines 5, 6), "
            "2 rows without a text (lines 4, 6)"
        ],
    ),
    "a quote that is never closed, and what is before it": (
        "a.csv",
        b'text,label\nx,a\n ,b\n"w,a\n',
        ["line 4: a quote opens and is never closed", "written twice; also 1 row without a text (line 3)"],
    ),
    "lines without a column, and lines that are no objects": (
        "a.jsonl",
        b'{"text": "x", "label": 1}\n{"text": "y"}\n{"label": 2}\n[]\n{"text": "z", "label": null}\n',
        [
            "line 2: no column 'label' (--label-column); it has 'text'; add it; also 1 further line without a column "
            "(line 3), 1 further line without an object (line 4: write one object a line), 1 row "
            "without a label (line 5)"
        ],
    ),
    "several lines that are no objects": (
        "a.jsonl",
        b'{"text": \n\n[1]\n{"text": "x", "label": 1}\n' + b"[" * 100_000,
        ["line 1 is not JSON", "; write one object a line; also 2 further lines without an object (lines 3, 5)"],
    ),
    "duplicate header": ("a.csv", b"text,label,text\nx,a,y\n", ["'text'", "more than once"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    name, data, said = BAD[case]
    path = tmp_path / name
    path.write_bytes(data)
    told = message(path)
    assert str(path) in told
    for words in said:
        assert words in told


def test_truncated_parquet(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a whole Parquet file" in message(path)
    path = write(tmp_path, "b.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    assert "not a whole Parquet file" in message(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "missing.csv")
    assert "directory" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in message(tmp_path / "pipe.csv")
    assert "cannot be read" in message("a\0b.csv")


@pytest.mark.parametrize("name", ["hutto:movie", "hutto:", "movies", "huto"])
def test_unknown_data_set_names_the_nearest(name: str) -> None:
    assert "did you mean 'hutto:" in message(name)


def test_a_last_line_without_an_end_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    for end in ("\n", "\r\n", "\r"):
        path.write_text(f"text,label\nx,good\ny,bad{end}", encoding="utf-8", newline="")
        load_source(spec(path))
    assert caplog.text == ""
    path.write_text("text,label\nx,good\ny,ba", encoding="utf-8")
    assert load_source(spec(path)).parts["all"].labels == ("good", "ba")
    assert caplog.text.count(f"{path}: its last line has no end, as of a file that was cut short: is it whole?") == 1


def test_text_and_label_column_differ(tmp_path: Path) -> None:
    assert "two columns" in message(write(tmp_path, "a.csv"), label_column="text")


def test_long_texts_and_codes_with_leading_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'x' * 200_000},007\ny, 7 \n", encoding="utf-8")
    examples = load_source(spec(path)).parts["all"]
    assert len(examples.texts[0]) == 200_000
    assert examples.labels == ("007", "7")


def test_labels_are_typed_alike_in_all_files(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\nx,1\ny,2\n", encoding="utf-8")
    test.write_text("text,label\nx,1\ny,other\n", encoding="utf-8")
    parts = load_source(spec(train, test=str(test))).parts
    assert parts["train"].labels == ("1", "2")
    assert parts["test"].labels == ("1", "other")
    assert load_source(spec(train)).parts["all"].labels == (1, 2)


def test_an_error_has_the_exit_code_of_data(tmp_path: Path) -> None:
    with pytest.raises(LoratoryError) as caught:
        load_source(spec(tmp_path / "no.csv"))
    assert caught.value.exit_code == 3
