"""A summary goes to its file and comes back; what is damaged, or no study, is one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import StorageError
from loratory.study.document import Summary
from loratory.study.layout import SUMMARY
from loratory.study.results import load_study
from loratory.study.summary import summarise

METHODS = ({"name": "standard"}, {"name": "lora", "rank": 8, "alpha": 16, "targets": "attention"})


@pytest.fixture(scope="module")
def summary(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Summary:
    """Two data sets with two cells each; a run failed and one is missing."""
    cells = [
        *(cell(method, failed={4: "diverged"}) for method in METHODS),
        *(cell(method, data="hutto:tweets", absent=[2]) for method in METHODS),
    ]
    study = load_study(fabricated(cells, sizes=(30, 100)).write())
    return summarise(study, with_baselines=False, draws=50)


def test_what_is_written_is_read_again(summary: Summary, tmp_path: Path) -> None:
    assert summary.write(tmp_path) == tmp_path / SUMMARY
    found = Summary.read(tmp_path)
    assert found == summary
    written = json.loads((tmp_path / SUMMARY).read_text("utf8"))
    assert len(written.pop("sha256")) == 64
    assert found.to_dict() == written
    assert not list(tmp_path.glob(".*"))


def test_cells_by_data_and_model_and_by_name(summary: Summary) -> None:
    assert [(group.key, group.title, sorted(group.ids)) for group in summary.groups] == [
        ("g1", "hutto:movies with minilm", ["c1", "c2"]),
        ("g2", "hutto:tweets with minilm", ["c3", "c4"]),
    ]
    cell = summary.cell("c2")
    assert cell is summary.cells[1]
    assert cell.score("accuracy") is cell.quality["test"]["accuracy"]
    assert (cell.score("speed"), cell.parameter("speed")) == (None, None)
    assert cell.parameter("trainable") == 222_338
    assert cell.share == 222_338 / 22_935_554


def _changed(document: dict[str, Any], *path: str | int, to: Any) -> dict[str, Any]:
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return document


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: {**s, "schema": 1}, "schema 1, not 2"),
        (lambda s: {key: value for key, value in s.items() if key != "schema"}, "schema None, not 2"),
        (lambda s: [s], "not a study's summary"),
        (lambda s: {key: value for key, value in s.items() if key != "cells"}, "damaged at cells (Field required)"),
        (lambda s: {**s, "margin": "wide"}, "damaged at margin"),
        (lambda s: {**s, "margin": float("nan")}, "damaged at margin"),
        (lambda s: {**s, "missing": "3"}, "damaged at missing"),
        (lambda s: _changed(s, "cells", 0, "quality", "test", to=3), "damaged at cells.0.quality.test"),
        (
            lambda s: _changed(s, "cells", 1, "cost", "train_seconds", "median", to=float("inf")),
            "damaged at cells.1.cost.train_seconds.median",
        ),
        (lambda s: _changed(s, "pairs", 0, "verdict", to="good"), "damaged at pairs.0.verdict"),
        (lambda s: _changed(s, "pairs", 0, "b", to="c9"), "cells c9 are unknown or twice"),
        (lambda s: {**s, "cells": [*s["cells"], s["cells"][0]]}, "cells c1 are unknown or twice"),
        (lambda s: {**s, "select": "speed"}, "damaged at select"),
    ],
)
def test_damage_is_one_clear_error(summary: Summary, tmp_path: Path, damage: Any, told: str) -> None:
    (tmp_path / SUMMARY).write_text(json.dumps(damage(summary.to_dict())), encoding="utf8")
    with pytest.raises(StorageError) as error:
        Summary.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / SUMMARY}: ")
    assert told in str(error.value)
    assert "write it again from the study's runs" in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_that_are_not_known_are_passed_over(summary: Summary, tmp_path: Path) -> None:
    document = _changed(summary.to_dict(), "cells", 0, "weather", to="fine")
    (tmp_path / SUMMARY).write_text(json.dumps({**document, "weather": "fine"}), encoding="utf8")
    assert Summary.read(tmp_path) == summary


def test_what_is_no_study_is_told_with_the_remedy(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="holds no study"):
            Summary.read(nothing)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "run.json").write_text("{}", encoding="utf8")
    with pytest.raises(StorageError, match=r"holds runs, not a study; `loratory compare .*/\*`"):
        Summary.read(tmp_path)
    with pytest.raises(StorageError, match="is a run, not a study; `loratory compare"):
        Summary.read(tmp_path / "one")
    with pytest.raises(StorageError, match="holds no study"):
        Summary.read(tmp_path / "one" / "run.json")
    for text in ("{", "[" * 100_000, "\udcff"):
        (tmp_path / SUMMARY).write_bytes(text.encode("utf8", "surrogateescape"))
        with pytest.raises(StorageError, match="cannot be read"):
            Summary.read(tmp_path)
