"""A data set of any size goes one way: divided and tokenised as by lists in memory, but never held in one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from loratory.data import (
    Coded,
    Texts,
    columns,
    content,
    epoch_order,
    files,
    header,
    load_source,
    make_dataset,
    normalised,
    tokenize,
)
from loratory.data.batches import Orders
from loratory.data.dividing import _counts
from loratory.data.profile import Reader, profile
from loratory.data.rows import PARTS
from loratory.errors import DataError, StorageError
from loratory.evaluation import baselines as judged
from loratory.evaluation import tfidf
from loratory.spec import DataSpec

ROOT = Path(__file__).parents[2]
Row = tuple[str, str, str]
"""Text, label, group."""


def reference(rows: list[Row], seed: int, *, grouped: bool) -> dict[str, list[Row]]:
    """What stands in each part, with lists and dictionaries alone."""
    place = {normalised(text): hashlib.sha256(f"{seed}\0{normalised(text)}".encode()).digest() for text, _, _ in rows}
    unit = {normal: {normal} for normal in place}
    for text, _, group in rows if grouped else []:
        for other, _, another in rows:
            if group == another and unit[normalised(text)] is not unit[normalised(other)]:
                both = unit[normalised(text)] | unit[normalised(other)]
                unit.update(dict.fromkeys(both, both))
    of_text = {normal: commonest(label for text, label, _ in rows if normalised(text) == normal) for normal in place}
    found = []
    for members in {id(one): one for one in unit.values()}.values():
        places = sorted(place[normal] for normal in members)
        own = places[0] if len(places) == 1 else hashlib.sha256(b"".join(places)).digest()
        found.append((own, commonest(of_text[normal] for normal in members), members))
    side = {}
    for label in {label for _, label, _ in rows}:
        own_class = [members for _, of, members in sorted(found, key=lambda one: one[0]) if of == label]
        begin = 0
        for part, count in _counts(len(own_class), {"test": 0.25, "validation": 0.25}).items():
            for members in own_class[begin : begin + count]:
                side.update(dict.fromkeys(members, part))
            begin += count
    order = sorted(rows, key=lambda row: (place[normalised(row[0])], row[0], row[1]))
    return {
        part: [row for row in order if side[normalised(row[0])] == part] for part in ("train", "validation", "test")
    }


def commonest(labels: Any) -> str:
    return min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))[0]


WORDS = st.sampled_from(["a", "A", "b", " b", "ﬁ", "fi", "é", "e\u0301", "\U0001f600"])
DRAWN = st.lists(st.tuples(WORDS, WORDS, st.sampled_from("xy"), st.integers(0, 9)), max_size=30)


@settings(max_examples=40, deadline=None)
@given(drawn=DRAWN, seed=st.integers(0, 5), grouped=st.booleans(), at_once=st.integers(1, 7))
def test_rows_are_divided_as_lists_of_them_would_be(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], seed: int, grouped: bool, at_once: int
) -> None:
    rows = [(f"own {n} {label}", label, f"{label}{n}") for n in range(12) for label in "xy"]
    rows += [(f"{one} {two}", label, str(group)) for one, two, label, group in drawn]
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(dict(zip(("text", "label", "g"), row, strict=True))) + "\n" for row in rows))
    given_group = {"group_column": "g"} if grouped else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "AT_ONCE", at_once)
        patch.setattr(columns, "RELEASED", 2 * at_once)
        spec = DataSpec(dataset=str(path), split_seed=seed, validation_fraction=0.25, test_fraction=0.25, **given_group)
        dataset = make_dataset(spec)
    expected = reference(rows, seed, grouped=grouped)
    for part, found in expected.items():
        split = dataset.split(part)
        assert split.texts == [text for text, _, _ in found]
        assert [dataset.labels[label] for label in split.labels] == [label for _, label, _ in found]
        lines = "".join(json.dumps([text, label]) + "\n" for text, label, _ in found)
        assert split.digest == hashlib.sha256(lines.encode()).hexdigest()
        assert [rows[row][:2] for row in split.rows] == [row[:2] for row in found]


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were asked for, each time some were; no more than 8 should be."""
    asked: list[int] = []
    plain = columns._Mapped.read

    def read(self: Any, chosen: Any) -> list[str]:
        found = plain(self, chosen)
        asked.append(len(found))
        return found

    monkeypatch.setattr(columns, "AT_ONCE", 8)
    monkeypatch.setattr(columns._Mapped, "read", read)
    return asked


def test_nobody_asks_for_all_texts_at_once(
    pulled: list[int], tiny_csv: Path, tiny_bert: Path, tmp_path: Path, texts: list[tuple[str, str]]
) -> None:
    dataset = make_dataset(DataSpec(dataset=str(tiny_csv)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tables = {part: tokenize(dataset.split(part), tokenizer, 9, tmp_path) for part in PARTS}
    found = profile(dataset, Reader("tiny", tokenizer, 64), 9)
    assert judged.baselines(dataset)[2].quality is not None
    assert found.search.distinct == len(texts)
    assert sum(pulled) >= 4 * len(texts)
    assert max(pulled) <= 8
    for part, table in tables.items():
        expected = tokenizer(list(dataset.split(part).texts), truncation=True, max_length=9)["input_ids"]
        assert [table.ids[a:b].tolist() for a, b in zip(table.offsets, table.offsets[1:], strict=False)] == expected


def test_above_a_number_of_texts_tfidf_is_left_out(tiny_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(DataSpec(dataset=str(tiny_csv)))
    monkeypatch.setattr(tfidf, "MOST_TEXTS", len(dataset.train) - 1)
    found = judged.baselines(dataset)[2]
    assert (found.quality, found.parameters) == (None, 0)
    assert found.reason == f"its terms are counted in memory, for at most {len(dataset.train) - 1} training texts"


CUT: dict[str, tuple[str, bytes, str]] = {
    "inside a line of JSON": (
        "a.jsonl",
        b'{"text": "x", "label": 1}\n{"text": "y", "la',
        "line 2 is not JSON (Unterminated string starting at at character 15); the file ends inside this line: is it "
        "whole? Else write one object a line",
    ),
    "before a label": (
        "a.csv",
        b"text,label\nx,a\ny",
        "line 3 has 1 cell, the header has 2 ('text', 'label'); the file ends inside this line: is it whole? Else add "
        "what is missing",
    ),
    "inside a quoted text": ("a.csv", b'text,label\nx,a\n"y\nz', "line 3: a quote opens and is never closed"),
    "inside a character": ("a.csv", "text,label\nx,é".encode()[:-1], "not UTF-8 at byte 13 (0xc3, line 2)"),
    "inside a character of JSON": ("a.jsonl", '{"text": "é'.encode()[:-1], "not UTF-8 at byte 10 (0xc3, line 1)"),
}


@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("block", [1, 2, 2**20])
def test_a_file_that_is_cut_off_is_one_line(
    case: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content, said = CUT[case]
    path = tmp_path / name
    path.write_bytes(content)
    monkeypatch.setattr("loratory.data.content._BLOCK", block)
    with pytest.raises(DataError) as caught:
        load_source(DataSpec(dataset=str(path)))
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@given(st.lists(st.sampled_from([b"\r", b"\n", b"x", b"\r\n"]), max_size=9).map(b"".join), st.integers(1, 4))
@settings(deadline=None)
def test_lines_are_counted_across_blocks(before: bytes, block: int) -> None:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file, pytest.MonkeyPatch.context() as patch:
        file.write(b"text,label\n" + before + b"\xff")
        file.flush()
        patch.setattr("loratory.data.content._BLOCK", block)
        line = len((b"text,label\n" + before + b".").splitlines())
        with pytest.raises(DataError, match=rf"not UTF-8 at byte {11 + len(before)} \(0xff, line {line}\)"):
            load_source(DataSpec(dataset=file.name))


@pytest.mark.parametrize("more", [b"y,b\n", b"\xff", b'"'])
def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nx,a\n" * 2)
    table = files.read_table(path, {header.TEXT: "text", header.LABEL: "label"})
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(DataError, match=r"a\.csv: (it changed while it was read|line 5: a quote opens)"):
        list(table.rows)


def test_no_room_for_the_texts_is_one_line(tiny_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(StorageError, match=r"cannot keep the texts here \(No space left on device\); set TMPDIR"):
        load_source(DataSpec(dataset=str(tiny_csv)))


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=9), st.data())
@settings(deadline=None)
def test_a_column_of_texts_is_like_a_tuple_of_them(texts: list[str], data: st.DataObject) -> None:
    column, plain = Texts.of(texts), tuple(texts)
    assert Texts.of(column) is column
    part = data.draw(st.slices(len(texts)))
    assert column == plain
    assert column[part] == plain[part]
    assert column != (*plain, "more")
    assert list(reversed(column)) == list(reversed(plain))
    places = data.draw(st.lists(st.integers(0, max(0, len(texts) - 1)), max_size=9 if texts else 0))
    taken = column.take(np.array(places, dtype=np.int64))
    assert taken == [plain[place] for place in places]
    assert taken.take(np.arange(len(places))[::-1]) == [plain[place] for place in reversed(places)]
    for place in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            column[place]


@given(st.lists(st.sampled_from([True, 1, 0, False, 1.5, "1", ""]), max_size=20))
def test_a_column_of_names_keeps_each_ones_type(values: list[Any]) -> None:
    column = Coded.of(values)
    assert [(type(one), one) for one in column] == [(type(one), one) for one in values]
    assert len(column.values) == len({(type(one), one) for one in values})
    assert column[1:] == values[1:]
    assert column.converted(repr) == [repr(one) for one in values]


def test_orders_are_drawn_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [epoch_order(50, 3, epoch).tolist() for epoch in (1, 2, 3)]
    orders = Orders(50, 3, 3)
    assert [order.tolist() for order in orders] == expected
    assert orders[-1].tolist() == expected[2]
    assert [order.tolist() for order in orders[1:]] == expected[1:]
    drawn: list[int] = []
    monkeypatch.setattr("loratory.data.batches.epoch_order", lambda n, seed, epoch: drawn.append(epoch))
    assert (len(Orders(50, 3, 1000)), drawn) == (1000, [])
    Orders(50, 3, 1000)[4]
    assert drawn == [5]


def test_the_benchmark_goes_the_way_of_a_runs_data(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("large", ROOT / "benchmarks" / "large.py")
    assert found is not None
    assert found.loader is not None
    large = importlib.util.module_from_spec(found)
    found.loader.exec_module(large)
    path = tmp_path / "rows.csv"
    large.write_rows(path, 300)
    stages = large.measured(path)
    names = ["importing", "reading", "dividing", "tokenising", "batches of 32, one epoch"]
    assert [stage["name"] for stage in stages] == names
    assert all(stage["peak"] >= stage["mapped"] > 0 for stage in stages)
    lengths = {len(text.split()) for text in load_source(DataSpec(dataset=str(path))).parts["all"].texts}
    assert lengths == set(range(large.LENGTHS[0], large.LENGTHS[1] + 1))


def test_a_file_that_changes_after_its_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n" + b"x,a\ny,b\n" * 20)
    look = content._looked_over

    def change(*arguments: Any, **settings: Any) -> Any:
        found = look(*arguments, **settings)
        path.write_bytes(b"text,label\n" + b"other,a\nthan,b\n" * 20)
        return found

    monkeypatch.setattr(content, "_looked_over", change)
    with pytest.raises(DataError, match="it changed while it was read"):
        load_source(DataSpec(dataset=str(path)))


def test_pages_of_long_texts_are_released_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.data.columns.HELD", 20_000)
    monkeypatch.setattr("loratory.data.columns.AT_ONCE", 10)
    texts = Texts.of("x" * 1_000 for _ in range(100))
    most = 0
    for chunk in texts.chunks():
        most = max(most, texts._content.held)
        assert chunk == ["x" * 1_000] * 10
    assert 20_000 < most <= 30_000
    assert texts._content.held == 0
