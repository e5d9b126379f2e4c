"""Data that cannot be learned from, or read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bad.case import ALL, ANY, LABEL, LEARN, SCORE, STUDY, TRAIN, Bench, Case, Make


def text(*lines: str, end: str = "\n") -> Make:
    """A file of these lines."""
    return lambda bench: bench.write("\n".join(lines) + end)


def content(data: bytes) -> Make:
    """A file of these bytes."""
    return lambda bench: bench.write(data)


ROWS = tuple(f"w{n} w{n + 1} w{n + 2},{('bad', 'good')[n % 2]}" for n in range(40))
HEADER = "text,label"
JSON_ROWS = tuple(json.dumps({"text": f"w{n} w{n + 1}", "label": ("bad", "good")[n % 2]}) for n in range(40))


def _parquet(bench: Bench) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["w1", "w2"] * 40, "label": ["a", "b"] * 40}), bench.given)
    bench.write(bench.given.read_bytes()[:-20])


def _changed(bench: Bench) -> None:
    """Somebody writes to the file once its bytes were looked through."""
    from loratory.data import files

    looked = files.looked_through

    def looked_then_changed(path: Path, **how: Any) -> Any:
        found = looked(path, **how)
        if path == bench.given:
            with path.open("a", encoding="utf8") as file:
                file.write(ROWS[0] + "\n")
        return found

    text(HEADER, *ROWS)(bench)
    bench.patch.setattr(files, "looked_through", looked_then_changed)


DATA = (
    Case("a file that is not there", ALL, 3, ("{given}", "no such file"), "none.csv"),
    Case("a directory in place of a file", ALL, 3, ("a directory",), "folder.csv", lambda b: b.given.mkdir()),
    Case("a pipe in place of a file", ALL, 3, ("not a regular file",), "p.csv", lambda b: os.mkfifo(b.given)),
    Case("a suffix that is no table's", ALL, 3, ("unknown format '.xlsx'",), "t.xlsx", text(HEADER, *ROWS)),
    Case("an empty file", ALL, 3, ("the file is empty",), "t.csv", content(b"")),
    Case("a header and nothing else", ALL, 3, ("only a header",), "t.csv", text(HEADER)),
    Case("no column of the text's name", ALL, 3, ("no column 'text' (", "; name one of these"), "t.csv",
         text("review,label", *ROWS)),
    Case("a column whose name begins with a space", ANY, 3, ("did you mean ' label'?",), "t.csv",
         text("text, label", *ROWS)),
    Case("no column of the label's name", ANY, 3, ("no column 'label' (", "; name one of these"), "t.csv",
         text("text,stars", *ROWS)),
    Case("a column that stands twice in the header", ALL, 3, ("'text' more than once",), "t.csv",
         text("text,text,label", "w1,w2,good")),
    Case("another separator", ALL, 3, ("looks separated by ';'",), "t.csv", text("text;label", "w1;good")),
    Case("a row with too few cells", ALL, 3, ("line 3 has 1 cell",), "t.csv", text(HEADER, ROWS[0], "w1")),
    Case("faults of several kinds", (*LEARN, *STUDY), 3,
         ("line 3 has 1 cell", "also 1 row without a label (line 4), 1 row without a text (line 5)"), "t.csv",
         text(HEADER, ROWS[0], "w1", "w2,", ",good")),
    Case("a row with too many cells", ALL, 3, ("line 3 has 3 cells", "put quotes around a text"), "t.csv",
         text(HEADER, ROWS[0], "w1, w2,good")),
    Case("a quote that is never closed", ALL, 3, ("line 3", "never closed"), "t.csv",
         text(HEADER, ROWS[0], '"w1,good', ROWS[1])),
    Case("bytes that are no UTF-8", ALL, 3, ("not UTF-8 at byte 14", "line 2"), "t.csv",
         content(b"text,label\ncaf\xe9,good\n")),
    Case("UTF-16", ALL, 3, ("not UTF-8 at byte 0",), "t.csv", content("text,label\nw1,good\n".encode("utf-16"))),
    Case("a NUL character", ALL, 3, ("NUL character at byte 12", "line 2"), "t.csv",
         content(b"text,label\nw\0,good\n")),
    Case("an extension that lies: Parquet called .csv", ALL, 3, ("is a Parquet file", "t.parquet"), "t.csv",
         _parquet),
    Case("a workbook called .csv", ALL, 3, ("is a zip archive or a workbook",), "t.csv", content(b"PK\3\4\0\0")),
    Case("a file that was packed", ALL, 3, ("is packed with gzip",), "t.jsonl", content(b"\x1f\x8b\x08\0")),
    Case("an extension that lies: CSV called .parquet", ALL, 3, ("not a whole Parquet file",), "t.parquet",
         text(HEADER, *ROWS), r"\(.*\)"),
    Case("a Parquet file that was cut short", ALL, 3, ("not a whole Parquet file",), "t.parquet", _parquet, r"\(.*\)"),
    Case("a line that is no JSON", ALL, 3, ("line 2 is not JSON",), "t.jsonl", text(JSON_ROWS[0], '{"text": w1}'),
         r"\(.*\)"),
    Case("a JSON array in place of lines", ALL, 3, ("line 1 is not a JSON object",), "t.jsonl",
         text(f"[{', '.join(JSON_ROWS)}]")),
    Case("JSON that is nested very deep", ALL, 3, ("line 2 is not JSON",), "t.jsonl",
         text(JSON_ROWS[0], "[" * 200_000 + "]" * 200_000), r"\(.*\)"),
    Case("a JSON object without the text", ALL, 3, ("line 2", "'text'"), "t.jsonl",
         text(JSON_ROWS[0], '{"label": "good"}')),
    Case("a text that is no string", ANY, 3, ("not a string", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": 5, "label": "good"}')),
    Case("a text to label that is no string", LABEL, 3, ("line 2", "no text"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": 5, "label": "good"}')),
    Case("a text that is missing", ANY, 3, ("without a text", "line 3"), "t.csv", text(HEADER, ROWS[0], " ,good")),
    Case("half of a surrogate pair", ANY, 3, ("half a surrogate pair", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1 \\ud800", "label": "good"}')),
    Case("half of a surrogate pair to label", LABEL, 3, ("line 2", "half a surrogate pair"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1 \\ud800", "label": "good"}')),
    Case("a text of more than a million characters", ANY, 3, ("1,000,000 characters", "line 3"), "t.csv",
         text(HEADER, ROWS[0], "w1 " * 400_000 + ",good")),
    Case("a text to label of more than a million characters", LABEL, 3, ("1,000,000 characters", "line 3"),
         "t.csv", text(HEADER, ROWS[0], "w1 " * 400_000 + ",good")),
    Case("a label that is missing", ANY, 3, ("without a label", "line 3"), "t.csv", text(HEADER, ROWS[0], "w1,")),
    Case("a label that is NaN", ANY, 3, ("without a label", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": NaN}')),
    Case("a label that is an object", (*LEARN, *STUDY), 3, ("no class name", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": {"a": 1}}')),
    Case("lists of labels among single ones", (*LEARN, *STUDY), 3, ("line 1",), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": ["good"]}')),
    Case("numbers with fractions, and a text among them", (*LEARN, *STUDY), 3, ("no finite number", "line 41"),
         "t.jsonl", text(*(json.dumps({"text": f"w{n}", "label": n / 8}) for n in range(40)),
                         '{"text": "w1", "label": "good"}')),
    Case("numbers with fractions, and marks of what is missing", (*LEARN, *STUDY), 3,
         ("3 rows", "'n/a'", "lines 42, 43, 44"), "t.csv",
         text(HEADER, *(f"w{n},{n / 8}" for n in range(40)), "w1,n/a", "w2,", "w3,NaN")),
    Case("text where --problem says regression", ("train --dataset {given} --problem regression",), 3,
         ("no finite number",), "t.csv", text(HEADER, *ROWS)),
    Case("lists written into a CSV", (*LEARN, *STUDY), 3, ("looks like a list", "write a;b"), "t.csv",
         text(HEADER, *(f"w{n},\"['a', 'b']\"" for n in range(40)))),
    Case("one class", (*LEARN, *STUDY), 3, ("one class only", "'good'"), "t.csv",
         text(HEADER, *(row.replace("bad", "good") for row in ROWS))),
    Case("a class of one text", (*TRAIN, "estimate --dataset {given}", *STUDY), 3,
         ("'rare' has 1 distinct text (line 42)", "too few"), "t.csv", text(HEADER, *ROWS, "w9 w8,rare")),
    Case("more folds than the smallest class has texts", ("train --dataset {given} --folds 30 --fold 1",), 3,
         ("fold",), "t.csv", text(HEADER, *ROWS)),
    Case("a label that the model does not know", SCORE, 3, ("'odd'", "unknown to the model"), "t.csv",
         text(HEADER, *ROWS, "w1,odd")),
    Case("one file for training and test", ("train --dataset {given} --test {given}",), 3, ("{given}",), "t.csv",
         text(HEADER, *ROWS)),
    Case("one file for validation and test", ("train --dataset {place}/good.csv --validation {given} --test {given}",),
         3, ("{given}",), "t.csv", text(HEADER, *ROWS)),
    Case("pairs without the second column", ("train --dataset {given} --pair-column pair",), 3,
         ("'pair'", "--pair-column"), "t.csv", text(HEADER, *ROWS)),
    Case("a pair without its second text", ("train --dataset {given} --pair-column pair",), 3,
         ("without a second text", "line 3"), "t.csv", text("text,pair,label", "w1,w2,good", "w1,,bad")),
    Case("pairs for a model of single texts", ("predict --model-path {run} --input {given} --pair-column label",), 3,
         ("single texts",), "t.csv", text(HEADER, *ROWS)),
    Case("a file that changes while it is read", TRAIN, 3, ("changed while it was read",), "t.csv", _changed),
    Case("a data set of that name is not packaged", ("train --dataset hutto:movie", "data show hutto:movie",
                                                     "estimate --dataset hutto:movie"), 3, ("movies",)),
    Case("no text to label", ("predict --model-path {run}",), 3, ("no text",)),
)  # fmt: skip
