"""What stands in two parts: counted, said, and refused where two files are one."""

from __future__ import annotations

import json
import logging
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from loratory.data import Dataset, make_dataset, shared
from loratory.data.profile import profile
from loratory.errors import DataError
from loratory.report.findings import findings
from loratory.report.notes import notes
from loratory.spec import DataSpec

Row = tuple[str, ...]


def write(path: Path, rows: list[Row]) -> str:
    """Rows of a text or two, and a label."""
    names = ("text", "label") if len(rows[0]) == 2 else ("text", "pair", "label")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return str(path)


def divided(**settings: Any) -> Dataset:
    return make_dataset(DataSpec.model_validate(settings))


SINGLE: list[Row] = [(f"text {n}", "ab"[n % 2]) for n in range(40)]


@pytest.mark.parametrize(("first", "second"), [*combinations(("dataset", "validation", "test"), 2)])
def test_one_file_for_two_parts_is_refused_under_any_name(first: str, second: str, tmp_path: Path) -> None:
    rows = {"dataset": SINGLE, "validation": [("v", "a")], "test": [("t", "b")]}
    rows[second] = rows[first]
    files = {part: write(tmp_path / f"{part}.jsonl", of) for part, of in rows.items()}
    with pytest.raises(DataError) as caught:
        divided(**files)
    expected = f"{files[second]}: --{second} has the rows of --{first} ({files[first]}); give others, or leave it out"
    assert str(caught.value) == expected


@pytest.mark.parametrize(("known", "warned"), [(3, False), (4, True)])
def test_a_test_that_mostly_stands_in_training_is_said(
    known: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, validation = write(tmp_path / "a.jsonl", SINGLE), write(tmp_path / "v.jsonl", [("v", "a")])
    test = write(tmp_path / "t.jsonl", [*SINGLE[:known], *((f"new {n}", "a") for n in range(8 - known))])
    with caplog.at_level(logging.WARNING, "loratory"):
        found = divided(dataset=train, validation=validation, test=test)
    assert found.overlap["train-test"] == known
    said = f"{train}: 4 of 8 texts of test also in train: scores on it say little of new texts; kept"
    assert (said in caplog.text) == warned
    assert len(caplog.records) == 1
    under = notes([{"data": found.record()}], ["a"], [])
    expected = "Test texts that stand in training too: 4 of 8; scores on them say little of new texts."
    assert (expected in under) == warned


PAIRED = {"pair_column": "pair"}
TWICE: list[Row] = [(f"first {n}", f"second {n}", "ab"[n % 2]) for n in range(40)]


def test_pairs_that_are_turned_round_are_the_same_and_no_conflict(tmp_path: Path) -> None:
    turned = [(second, first.upper(), "ba"["ab".index(label)]) for first, second, label in TWICE[:20]]
    found = divided(dataset=write(tmp_path / "a.jsonl", [*TWICE, *turned]), **PAIRED)
    assert (found.duplicates, found.conflicts) == ({"all": 20}, 0)
    assert set(found.overlap.values()) == {0}
    units = [found.record()["units"][part] for part in ("train", "validation", "test")]
    assert sum(units) == 40
    equal = profile(found, None, 16).equal
    assert (equal.groups, equal.rows, equal.conflicts, set(equal.across.values())) == (20, 40, 0, {0})

    again = [(*TWICE[0][:2], "b"), (TWICE[1][1], TWICE[1][0], "a"), (TWICE[1][1], TWICE[1][0], "b")]
    found = divided(dataset=write(tmp_path / "b.jsonl", [*TWICE, *again]), **PAIRED)
    assert found.conflicts == 2
    looked = profile(found, None, 16)
    assert (looked.equal.conflicts, len(looked.conflicting)) == (2, 2)
    assert shared([("Second 3", "first 3")], [row[:2] for row in TWICE]) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_pairs_of_a_test_file_that_share_a_text_with_training_are_said(
    turned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = [(f"FIRST {n}", f"new {n}", "ab"[n % 2]) for n in range(10)]
    test += [(f"newer {n}", f"second {n}" if n < 2 else f"newest {n}", "a") for n in range(6)]
    if turned:
        test = [(second, first, label) for first, second, label in test]
    files = {
        "dataset": write(tmp_path / "a.jsonl", TWICE),
        "validation": write(tmp_path / "v.jsonl", [("v", "w", "a")]),
        "test": write(tmp_path / "t.jsonl", test),
    }
    with caplog.at_level(logging.WARNING, "loratory"):
        found = divided(**files, **PAIRED)
    assert set(found.overlap.values()) == {0}
    assert found.alone is not None
    counts = [found.alone[side]["train-test"] for side in ("text", "pair")]
    assert counts == ([2, 10] if turned else [10, 2])
    (record,) = caplog.records
    side = "second" if turned else "first"
    assert f"the {side} text of 10 of 16 pairs of test also in train; --group-column" in record.getMessage()
    looked = findings(profile(found, None, 16), found.record()["sizes"])
    said = next(one for one in looked if one.title == "Texts of pairs, each by itself").sentences
    assert any("10 rows of test (62.5%) in train" in sentence for sentence in said)
    assert divided(dataset=write(tmp_path / "s.jsonl", SINGLE)).record()["alone"] is None
