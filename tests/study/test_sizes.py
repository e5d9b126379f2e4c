"""Several sizes of the training set: cells of each, compared within it, and what is said over them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import SettingsError
from loratory.inputs import Inputs
from loratory.report.sizes import over_sizes
from loratory.report.study import write
from loratory.report.study_table import study_table
from loratory.study.document import Summary
from loratory.study.fitting import check_settings
from loratory.study.plan import differences_said
from loratory.study.reading import read_study
from loratory.study.results import load_study
from loratory.study.spec import StudySpec
from loratory.study.summary import summarise

FILE = """
name: sizes
data: [{data}]
models: [tiny]
methods: [standard, {{name: lora, rank: [2, 4]}}]
seeds: [0, 1]
train: {{limit: {limit}, epochs: 1}}
"""


def read(place: Path, limit: str, data: str = "hutto:movies") -> StudySpec:
    path = place / "sizes.yaml"
    path.write_text(FILE.format(limit=limit, data=data), encoding="utf8")
    return read_study(path)[0]


def test_each_setting_has_a_cell_of_each_size(tmp_path: Path) -> None:
    spec = read(tmp_path, "[10, 20, all]")
    cells = spec.cells()
    assert [(cell.limit, cell.method.name) for cell in cells][:4] == [
        *((10, "standard"), (10, "lora"), (10, "lora"), (20, "standard"))
    ]
    assert (len(cells), spec.runs) == (9, 9 * 2)
    assert [spec.run(cell, lr=None, seed=0).data.limit for cell in cells[::3]] == [10, 20, None]
    assert "Differences: 9 pairs" in differences_said(spec)[0]  # three of each size, corrected for together


@pytest.mark.parametrize(("one", "limit"), [("20", 20), ("all", None), ("[20]", 20)])
def test_a_single_size_is_what_it_was(one: str, limit: int | None, tmp_path: Path) -> None:
    spec = read(tmp_path, one)
    assert len(spec.cells()) == 3
    assert spec.run(spec.cells()[0], lr=None, seed=0).data.limit == limit
    assert "limit" not in spec.cells()[0].describe()  # a selection of before stays the selection


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("[10, 10]", "limit 10 stands there twice; keep one"),
        ("[0, 10]", "limit 0: give a number of training examples, or all"),
        ("[10, some]", "limit 'some': give a number of training examples, or all"),
        ("[1.5, 10]", "limit 1.5: give a number of training examples, or all"),
        ("[]", "train.limit is an empty list; give at least one value"),
        ("some", "limit 'some': "),
    ],
)
def test_a_size_that_is_none_is_one_line(limit: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"sizes.yaml, line 7: {said}"):
        read(tmp_path, limit)


def test_two_sizes_that_are_the_same_examples_are_refused_before_anything_is_run(
    tmp_path: Path, tiny_csv: Path, model_directory: Any
) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(FILE.format(limit="[10, 5000, all]", data=tiny_csv), encoding="utf8")
    spec, _ = read_study(path, [("models", str(model_directory("bert")))])
    with pytest.raises(SettingsError, match=r"has \d+ training examples: limit 5000 and all are the same; keep one$"):
        check_settings(spec, Inputs())


@pytest.fixture
def summary(fabricated: Callable[..., Any], cell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Summary:
    """Standard is worse at 100 examples, better with all, and as good between; of the head nothing is shown."""
    monkeypatch.setenv("LORATORY_DATA", "/nowhere")
    lora = {"name": "lora", "rank": 8, "alpha": 16, "targets": "attention"}
    levels = {100: (0.6, 0.75), 1000: (0.8, 0.8), None: (0.93, 0.8)}
    cells = [
        cell(method, level, limit=limit)
        for limit, accuracies in levels.items()
        for method, level in zip(({"name": "standard"}, lora), accuracies, strict=True)
    ]
    return summarise(load_study(fabricated(cells, sizes=(60, 600)).write()))


def test_pairs_stay_within_a_size_and_are_one_family(summary: Summary) -> None:
    assert [(pair.a, pair.b, pair.family) for pair in summary.pairs] == [
        ("c1", "c2", 3),
        ("c3", "c4", 3),
        ("c5", "c6", 3),
    ]
    assert [pair.verdict for pair in summary.pairs] == ["worse", "inconclusive", "better"]
    assert [(group.limit, group.size) for group in summary.groups] == [
        (100, "100 training examples"),
        (1000, "1,000 training examples"),
        (None, "all 7,398 training examples"),
    ]


def test_where_two_approaches_cross_is_said(summary: Summary) -> None:
    (said,) = (one for one in summary.observations if one.topic == "sizes")
    assert said.text == (
        "standard and lora r=8 attention cross: in test accuracy standard is better than lora r=8 attention with all "
        "7,398 and lora r=8 attention is better than standard with 100 training examples; they are not shown to differ "
        "with 1,000."
    )
    assert said.figures == {"100": "worse", "1,000": "inconclusive", "all 7,398": "better"}


def test_the_table_names_the_size_and_a_chart_has_a_line_for_each_approach(summary: Summary, tmp_path: Path) -> None:
    header, *rows = csv.reader(study_table(summary).to_csv().splitlines())
    place = header.index("train_examples")
    assert [row[place] for row in rows] == ["100", "100", "1000", "1000", "7398", "7398"]
    (sizes,) = over_sizes(summary)
    (data,) = (rows for rows in sizes.chart.spec["datasets"].values() if "size" in rows[0] and len(rows) == 6)
    assert {row["approach"] for row in data} == {"standard", "lora r=8 attention"}
    assert sorted({row["x"] for row in data}) == [100, 1000, 7398]
    assert all(row["low"] < row["y"] < row["high"] for row in data)
    written = write(tmp_path, summary)
    assert {"by-size.svg", "hutto-movies-minilm-100-quality-trainable.svg"} <= {path.name for path in written}
    page = (tmp_path / "report.html").read_text("utf8")
    assert "Quality by training examples" in page
    assert 'data-chart="s1-by-size"' in page


def test_a_study_of_one_size_says_nothing_of_sizes(
    fabricated: Callable[..., Any], cell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATORY_DATA", "/nowhere")
    found = summarise(load_study(fabricated([cell({"name": "head"}), cell({"name": "standard"})]).write()))
    assert not found.sized
    assert over_sizes(found) == []
    assert "train_examples" not in study_table(found).to_csv()
    assert found.groups[0].title == "hutto:movies with minilm"
