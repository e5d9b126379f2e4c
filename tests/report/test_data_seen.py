"""The page's section on the data: there where they are at hand and are what the runs saw, and else it says why not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loratory.data import make_dataset
from loratory.finish import finish
from loratory.inputs import Inputs
from loratory.report.data_seen import DataSeen, data_seen
from loratory.spec import DataSpec
from loratory.store.record import RunRecord


@pytest.fixture
def record(tmp_path: Path, tiny_bert: Path, texts: list[tuple[str, str]]) -> RunRecord:
    """A run's, of a file in which one text stands twice."""
    path = tmp_path / "own.csv"
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label"), *texts, ("<b>\x1b[31m twice", "bad"), ("<b>\x1b[31m twice", "good")]
        )
    spec = DataSpec(dataset=str(path), max_length=32)
    asked = {"data": spec.model_dump(), "model": str(tiny_bert)}
    return RunRecord("one", "", "completed", asked, make_dataset(spec).record(), {}, {}, {}, {})


def seen(record: RunRecord | None) -> DataSeen:
    study: Any = SimpleNamespace(cells=[SimpleNamespace(data="own", runs=["one"], train_examples=None)])
    evidence: Any = SimpleNamespace(records={} if record is None else {"one": record}, inputs=Inputs())
    (found,) = data_seen(study, evidence)
    return found


def test_findings_and_lengths_are_there(record: RunRecord) -> None:
    found = seen(record)
    assert found.lengths is not None
    assert [row.entries[0].text for row in found.lengths.rows] == ["train", "validation", "test", "all"]
    assert sum(float(row.entries[1].value or 0) for row in found.lengths.rows) == 2 * 122
    assert [one.title for one in found.findings][-2:] == ["Label conflicts", "Maximum length"]
    assert "1 text with more than one label." in found.findings[-2].sentences
    assert found.note.startswith("Lines are those of the file, from 1")


def test_without_the_model_there_are_no_lengths(record: RunRecord) -> None:
    found = seen(replace(record, spec={**record.spec, "model": "somebody/somewhere"}))
    assert found.lengths is None
    assert [one.title for one in found.findings][-1] == "Label conflicts"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "hub:somewhere"}, "not at hand"),
        ({"dataset": "hutto:movies"}, "not at hand"),
        ({"dataset": "gone.csv"}, "not at hand"),
        ({"split_seed": 1}, "no longer what the runs saw"),
        ({"text_column": "gone"}, "could not be read"),
    ],
)
def test_where_there_is_nothing_it_says_why(record: RunRecord, change: dict[str, Any], why: str) -> None:
    found = seen(replace(record, spec={**record.spec, "data": {**record.spec["data"], **change}}))
    assert (found.findings, found.lengths) == ((), None)
    assert why in found.note


def test_without_a_record_it_says_so() -> None:
    assert "No run of it is here" in seen(None).note


def test_a_finished_study_has_the_section_and_the_data_run_nothing(ran: Path) -> None:
    page = finish(ran)[0].read_text("utf8")
    section = page[page.index('id="data-title"') : page.index('id="runs-title"')]
    for words in ("Tokens of", "Equal texts, up to case and spaces", "Near duplicates", "No text has two labels."):
        assert words in section
    name = json.loads((ran / "summary.json").read_text("utf8"))["cells"][0]["data"]
    assert name in section


def test_texts_of_the_page_are_escaped(record: RunRecord, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loratory.report import page

    monkeypatch.setattr(page.data_seen, "data_seen", lambda study, evidence: [seen(record)])
    text = finish(ran)[0].read_text("utf8")
    assert "<q>&lt;b&gt;\\x1b[31m twice</q>" in text
    assert "\x1b" not in text
