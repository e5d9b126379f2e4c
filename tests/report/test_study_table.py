"""The tables of a study, what its summary must hold, and what its figures are."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from loratory.cli import main
from loratory.errors import ResourceError
from loratory.evaluation.metrics import METRICS
from loratory.report import axes, theme
from loratory.report.beside import SAME_AUTHORS
from loratory.report.charts import Chart
from loratory.report.comparing import quality_grid
from loratory.report.curves import BROUGHT_OUT, tuning
from loratory.report.drawing import draw
from loratory.report.families import members
from loratory.report.fronts import UNNAMED, quality_against_cost
from loratory.report.labels import _box, apart, covered, placed
from loratory.report.prose import limits
from loratory.report.study import svg, write
from loratory.report.study_table import study_table

Document = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def summary(make_study: Any, place: Path) -> Document:
    found: Document = make_study(place)
    (place / "summary.json").write_text(json.dumps(found), encoding="utf8")
    return found


@pytest.fixture(scope="module")
def written(summary: Document, read_back: Any, place: Path) -> list[Path]:
    return write(place, read_back(summary))


def rows_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]


def test_table_has_a_row_a_cell_with_intervals_and_the_baselines(summary: Document, read_back: Any) -> None:
    rows = rows_of(study_table(read_back(summary)).to_markdown())
    assert rows[0] == [
        *("Approach", "Learning rate", "Trainable parameters", "Share", "Training time", "Total time", "Peak memory"),
        *("Accuracy (test)", "Macro-F1 (test)"),
    ]
    assert [row[0] for row in rows[2:]] == [
        *("standard", "lora r=1 attention", "lora r=8 attention", "head"),
        *("majority class", "VADER", "TF-IDF + logistic regression"),
    ]
    mean = summary["cells"][0]["quality"]["test"]["accuracy"]
    assert rows[2][7] == f"{mean['mean']:.1%} ({mean['low']:.1%} to {mean['high']:.1%})"
    assert rows[2][1] == "1e-4"
    assert rows[2][3] == "100%"
    assert rows[-1][7] == "78.1%"


def test_csv_has_every_number_in_full(summary: Document, read_back: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(study_table(read_back(summary)).to_csv())))
    assert len(rows) == 7
    for row, cell in zip(rows, summary["cells"], strict=False):
        assert float(row["accuracy"]) == cell["quality"]["test"]["accuracy"]["mean"]
        assert float(row["ece_high"]) == cell["quality"]["test"]["ece"]["high"]
        assert float(row["train_seconds_low"]) == cell["cost"]["train_seconds"]["low"]
        assert int(row["trainable"]) == cell["parameters"]["trainable"]
        assert float(row["lr"]) == cell["tuning"]["choices"][0]["lr"]


@pytest.mark.parametrize(
    ("at_once", "says"),
    [
        ((1, 1, 1, 1), ["Each final run had its device to itself: no other run of the study was there."]),
        ((3, 3, 2, 3), ["Up to 3 runs of the study went at once on one device: they slowed one another"]),
        ((1, 2, 1, 1), ["Up to 2 runs of the study went at once on one device in 1 of 4 cells: they slowed"]),
        ((None,) * 4, ["How many runs of the study went at once on one device is not known: those that did"]),
        ((None, 2, 1, 1), ["Up to 2 runs of the study", "is not known in 1 of 4 cells"]),
    ],
)
def test_table_and_page_say_how_many_runs_went_at_once(
    at_once: tuple[int | None, ...], says: list[str], summary: Document, read_back: Any
) -> None:
    cells = [{**cell, "runs_at_once": number} for cell, number in zip(summary["cells"], at_once, strict=True)]
    study = read_back({**summary, "cells": cells})
    (limit,) = (text for text in limits(study) if text.startswith("Times and memory are those of one device"))
    for text in ("\n".join(study_table(study).notes), limit):
        assert all(part in text for part in says)
        assert text.count("at once") + text.count("to itself") == len(says)


def test_names_of_several_data_sets_stand_in_the_table(summary: Document, read_back: Any) -> None:
    second = [{**cell, "id": f"{cell['id']}b", "data": "hutto:tweets"} for cell in summary["cells"]]
    both = {**summary, "cells": [*summary["cells"], *second], "pairs": [], "fronts": []}
    rows = rows_of(study_table(read_back(both)).to_markdown())
    assert rows[0][:2] == ["Data", "Approach"]
    assert {row[0] for row in rows[2:]} == {"hutto:movies", "hutto:tweets"}


def test_unfinished_and_failed_runs_are_said_under_the_table(summary: Document, read_back: Any) -> None:
    failed = [{"run": "c1-s4", "cell": "c1", "stage": "final", "status": "out_of_memory", "error": "out of memory"}]
    notes = study_table(read_back({**summary, "complete": False, "missing": 3, "failed": failed})).notes
    assert notes[0] == "Left out of every number here: 1 run that did not complete."
    assert notes[1] == "The study is not finished: 3 runs missing."


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    with pytest.raises(ResourceError, match="a report needs altair, which is not installed"):
        theme.require_packages()


def test_figures_are_pictures_that_name_nothing_outside(written: list[Path]) -> None:
    figures = [path for path in written if path.suffix == ".svg"]
    names = {path.name for path in figures}
    assert {"quality-trainable.svg", "learning.svg", "by-rank.svg", "tuning.svg", "time.svg", "memory.svg"} <= names
    for path in figures:
        text = path.read_text("utf8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "path", "text", "rect", "line", "defs", "clipPath", "tspan", "style"}
        assert "var(--" not in text
        assert not any("href" in name for element in root.iter() for name in element.attrib)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 3


def test_figures_of_an_older_report_go(written: list[Path], summary: Document, read_back: Any, place: Path) -> None:
    (place / "figures" / "old.svg").write_text("<svg/>", encoding="utf8")
    assert write(place, read_back(summary)) == written
    assert {path.name for path in (place / "figures").iterdir()} == {p.name for p in written if p.suffix == ".svg"}
    assert not list(place.glob(".*"))


def test_command_lists_what_it_wrote(written: list[Path], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [str(path) for path in written]
    assert main(["report", str(place)]) == 0
    assert str(place / "report.html") in capsys.readouterr().out
    assert main(["report", str(place / "runs" / "c1-s0")]) == 5
    assert "is a run, not a study" in capsys.readouterr().err


def test_cells_that_differ_in_a_number_are_one_family(summary: Document, read_back: Any) -> None:
    found = members(read_back(summary).cells)
    assert [(one.family, one.label) for one in found.values()] == [
        ("standard", "standard"),
        ("lora attention", "r=1"),
        ("lora attention", "r=8"),
        ("head", "head"),
    ]
    assert len({one.order for one in found.values()}) == 3


def test_lines_that_end_together_have_names_apart() -> None:
    found = apart([10.0, 11.0, 50.0, 10.5], 13)
    assert found == [-2.5, 23.5, 50.0, 10.5]
    assert apart([10.0, 11.0, 50.0, 10.5], 13, (0, 60)) == [0.0, 26.0, 50.0, 13.0]
    assert apart([50.0, 50.0, 10.0], 13, (0, 52)) == [39.0, 52.0, 10.0]
    assert apart([0.0] * 3, 13, (0, 300)) == [0.0, 13.0, 26.0]


def test_counts_of_seeds_stand_beside_the_approach_that_is_brought_out(summary: Document, read_back: Any) -> None:
    study = read_back(summary)
    cells = [dataclasses.replace(study.cells[0], id=f"x{n}", approach=f"a{n}") for n in range(5)]
    few, many = (tuning(list(members(some).values()), "accuracy") for some in (cells[:4], cells))
    assert few is not None
    assert many is not None
    assert (few.note, many.note) == ("", BROUGHT_OUT)

    def opacity(chart: Chart) -> str:
        layers = chart.spec["layer"]
        marks = [one["mark"] for one in layers if one["encoding"].get("text", {}).get("field") == "count"]
        expression: str = marks[0]["opacity"]["expr"]
        return expression

    assert "cell === ''" in opacity(few)
    assert opacity(many) == "datum.cell === cell ? 1 : 0"


def test_names_of_points_do_not_cover_one_another() -> None:
    points = [(100.0, 100.0), (104.0, 102.0), (100.0, 110.0)]
    found = placed(points, ["r=1", "r=2", "r=4"], [], (600, 300))
    assert len({(place.dx, place.dy) for place in found}) == 3
    assert placed([(595.0, 100.0)], ["standard"], [], (600, 300))[0].align == "right"


def test_hybrids_without_lora_are_a_series_apart(tmp_path: Path, make_study: Any, read_back: Any) -> None:
    hybrids: list[tuple[dict[str, Any], float]] = [
        ({"name": "hybrid", "rank": rank, "targets": "attention", "unfrozen_layers": layers}, 0.8)
        for rank in (0, 8)
        for layers in (1, 2)
    ]
    found = members(read_back(make_study(tmp_path, hybrids)).cells)
    assert [member.family for member in found.values()] == ["hybrid without LoRA"] * 2 + ["hybrid attention"] * 2
    assert [member.label for member in found.values()] == ["top 1", "top 2"] * 2


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ((0,), "on the test split, one seed: no interval, so differences may be chance."),
        ((0, 1), "on the test split, means over 2 seeds: no interval below 3 seeds, so differences may be chance."),
        ((0, 1, 2), "on the test split, means over 3 seeds with 95% intervals over seeds, on these examples."),
    ],
)
def test_notes_claim_intervals_only_where_there_are_any(
    seeds: tuple[int, ...], says: str, tmp_path: Path, make_study: Any, read_back: Any
) -> None:
    study = read_back(make_study(tmp_path, (({"name": "standard"}, 0.85), ({"name": "head"}, 0.7)), seeds=seeds))
    notes = study_table(study).notes
    assert any(note.endswith(says) for note in notes)
    assert ("Times and memory: medians over seeds." in notes) == (len(seeds) > 1)
    some = dataclasses.replace(study.cells[0], seeds=(0,))
    mixed = dataclasses.replace(study, cells=(some, *study.cells[1:]))
    assert any("none below 3 seeds" in note for note in study_table(mixed).notes) == (len(seeds) == 3)


def test_a_baseline_above_every_approach_stands_under_the_table_and_in_the_terminal(
    summary: Document, read_back: Any
) -> None:
    above = [{**one, "accuracy": 0.99} if one["name"] == "VADER" else one for one in summary["baselines"]]
    study = read_back({**summary, "baselines": above})
    told = "VADER reaches 99.0%, above the mean of every approach (accuracy, test)."
    kin = "the same authors (Hutto & Gilbert 2014)"
    terminal = Console(width=200, file=io.StringIO())
    terminal.print(study_table(study).to_rich())
    for text in (study_table(study).to_markdown(), terminal.file.getvalue()):
        assert f"{told} {SAME_AUTHORS}" in " ".join(text.replace("\\", "").split())
        assert kin in text
    elsewhere = {
        "cells": [{**cell, "data": "mine.csv"} for cell in summary["cells"]],
        "baselines": [{**one, "data": "mine.csv"} for one in above],
    }
    other = study_table(read_back({**summary, **elsewhere, "pairs": [], "fronts": []})).to_markdown()
    assert told in other.replace("\\", "")
    assert kin not in other
    assert "above the mean" not in study_table(read_back(summary)).to_markdown()


@pytest.mark.parametrize(("metric", "mean", "shown"), [("accuracy", 0.97, (0.76, 1.0)), ("mcc", -0.9, (-1.0, -0.69))])
def test_intervals_stay_on_the_scale_of_their_metric(
    metric: str, mean: float, shown: tuple[float, float], summary: Document, read_back: Any
) -> None:
    wide = {"mean": mean, "sd": 0.2, "low": mean - 0.21, "high": mean + 0.21, "values": [mean] * 5}
    cells = [
        {**cell, "quality": {"test": {**cell["quality"]["test"], metric: wide}}} if cell["id"] != "c4" else cell
        for cell in summary["cells"]
    ]
    fronts = [
        {**one, "points": [{**p, "quality": mean, "low": mean - 0.21, "high": mean + 0.21} for p in one["points"]]}
        for one in summary["fronts"]
    ]
    study = read_back({**summary, "cells": cells, "select": metric, "fronts": fronts, "pairs": []})
    mean_on_scale = axes.on_scale(metric, study.cells[0].quality["test"][metric])
    assert (mean_on_scale.low, mean_on_scale.high) == pytest.approx(shown)
    drawn = draw(study, study.groups[0], {})
    for chart in (*drawn.quality.values(), *(one.chart for one in drawn.settings)):
        rows = [row for part in chart.spec["datasets"].values() for row in part if row.get("high") is not None]
        assert rows
        assert all(METRICS[metric].ends[0] <= row["low"] <= row["high"] <= 1 for row in rows)
    if metric == "accuracy":
        told = "97.0% (76.0% to 100.0%)"
        assert told in study_table(study).to_markdown()
        entry = quality_grid(study, study.groups[0]).rows[0].entries[-2]
        assert (entry.text, entry.sub) == ("97.0%", "76.0% to 100.0%")
        assert entry.whisker is not None
        assert entry.whisker.high == 96.0
        raw = next(csv.DictReader(io.StringIO(study_table(study).to_csv())))
        assert float(raw["accuracy_high"]) == pytest.approx(1.18)  # a file for programs has the number itself


def test_learning_rates_read_alike_in_charts_and_tables(summary: Document, read_back: Any) -> None:
    study = read_back(summary)
    drawn = draw(study, study.groups[0], {}).tuning
    assert drawn is not None
    picture = svg(drawn.chart)
    assert ">5e-4<" in picture
    assert "e−" not in picture


def test_without_verdicts_no_point_is_filled(summary: Document, read_back: Any) -> None:
    pairs = [{**pair, "verdict": None, "why_none": "so it is"} for pair in summary["pairs"]]
    for document, judged in (({**summary, "pairs": pairs}, False), (summary, True)):
        study = read_back(document)
        for chart in draw(study, study.groups[0], {}).quality.values():
            rows = next(rows for rows in chart.spec["datasets"].values() if "core" in rows[0])
            assert any(row["core"] for row in rows) == judged
            assert ("no pair has a verdict" in {row["standing"] for row in rows}) != judged
            assert ("No pair has a verdict" in chart.note) != judged
            assert ("On the front" in chart.summary) == judged


def test_names_of_many_points_that_stand_close_do_not_cover_one_another() -> None:
    points = [(300.0 + number % 3, 100.0 + number) for number in range(14)]
    names = [f"lora all-linear r={number}" for number in range(14)]
    found = placed(points, names, [], (600, 300), crowded=True)
    boxes = [_box(*one) for one in zip(points, names, found, strict=True) if one[2].seen]
    assert 2 <= len(boxes) < 14
    assert all(covered(box, boxes[:number]) == 0 for number, box in enumerate(boxes))
    assert all(one.seen for one in placed(points[:2], names[:2], [], (600, 300), crowded=True))


def test_a_crowded_front_says_that_points_have_no_name(summary: Document, read_back: Any) -> None:
    study = read_back(summary)
    place, cell = study.fronts[1].points[0], study.cells[2]
    cells = [dataclasses.replace(cell, id=f"x{n}", approach=f"lora r={n} attention, alpha=16") for n in range(30)]
    points = tuple(dataclasses.replace(place, cell=one.id, tied_with=()) for one in cells)
    front = dataclasses.replace(study.fronts[1], points=points)
    crowded = quality_against_cost(front, members(cells), "accuracy")
    roomy = quality_against_cost(study.fronts[1], members(study.cells), "accuracy")
    assert crowded is not None
    assert roomy is not None
    assert UNNAMED in crowded.note
    assert UNNAMED not in roomy.note
    assert crowded.spec["height"] > roomy.spec["height"]
