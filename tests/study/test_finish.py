"""A study's directory, finished: its summary made anew where the runs are there, read where they are not."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.data import make_dataset
from loratory.errors import StorageError
from loratory.finish import complete, finish
from loratory.inputs import Inputs
from loratory.report import theme
from loratory.report.evidence import gather
from loratory.spec import DataSpec
from loratory.study.document import Summary
from loratory.study.layout import SUMMARY
from loratory.study.summary import summarise


@pytest.fixture(scope="module")
def _study(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Path:
    """A study whose runs are done, which no test may touch."""
    cells = [cell({"name": name}, accuracy) for name, accuracy in (("standard", 0.9), ("head", 0.7))]
    place: Path = fabricated(cells, sizes=(60, 200)).write()
    return place


@pytest.fixture
def study(_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose runs are done, and whose data is not on this machine."""
    monkeypatch.setenv("LORATORY_DATA", "/nowhere")
    return Path(shutil.copytree(_study, tmp_path / "study"))


@pytest.fixture(scope="module")
def finished(_study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The study, finished over a summary of another time, and what was written; no test may touch it."""
    place = Path(shutil.copytree(_study, tmp_path_factory.mktemp("finished") / "study"))
    (place / SUMMARY).write_text("of another time", encoding="utf8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORATORY_DATA", "/nowhere")
        return place, finish(place)


def test_the_summary_is_made_anew_from_the_runs(finished: tuple[Path, list[Path]]) -> None:
    study, written = finished
    assert written[0] == study / "report.html"
    assert {study / "table.md", study / "table.csv", study / SUMMARY} <= set(written)
    assert all(path.is_file() for path in written)
    assert [cell.approach for cell in Summary.read(study).cells] == ["standard", "head"]
    assert "standard" in (study / "table.md").read_text("utf8")


@pytest.mark.usefixtures("without_page")
def test_baselines_that_score_as_before_keep_their_time(
    study: Path, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(DataSpec(dataset=str(tiny_csv)))
    monkeypatch.setattr("loratory.study.summary._not_here", lambda data: None)
    monkeypatch.setattr("loratory.study.summary.dataset_of", lambda record, read: dataset)
    finish(study)
    first = Summary.read(study)
    times = [one.seconds for one in first.baselines]
    assert times[0]
    finish(study)
    assert Summary.read(study) == first
    majority, *others = first.baselines
    dataclasses.replace(first, baselines=(dataclasses.replace(majority, accuracy=0.1), *others)).write(study)
    finish(study)
    after = [one.seconds for one in Summary.read(study).baselines]
    assert (after[0] == times[0], after[1:]) == (False, times[1:])


def test_a_price_makes_times_money_in_tables_and_page_and_is_no_part_of_the_runs(study: Path) -> None:
    finish(study)
    plain = {name: (study / name).read_text("utf8") for name in ("table.csv", "report.html")}
    assert all("price" not in text.lower().split("<script")[0] for text in plain.values())
    runs = sorted((study / "runs").rglob("*"))
    assert main(["report", str(study), "--price-per-hour", "36"]) == 0
    with (study / "table.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["price"]) for row in rows] == pytest.approx([float(row["total_seconds"]) / 100 for row in rows])
    assert "| Price |" in (study / "table.md").read_text("utf8")
    assert "Price: total time at 36 an hour." in (study / "table.md").read_text("utf8")
    page = (study / "report.html").read_text("utf8")
    seconds = [json.loads(path.read_text("utf8"))["cost"]["total_seconds"] for path in study.glob("runs/*/run.json")]
    assert f"one after the other: {sum(seconds) / 100:.2f}." in page
    assert sorted((study / "runs").rglob("*")) == runs
    shutil.rmtree(study / "runs")  # a copy without its runs, too
    assert main(["report", str(study), "--price-per-hour", "72"]) == 0
    assert "at 72 an hour" in (study / "table.md").read_text("utf8")


@pytest.mark.usefixtures("without_page")
def test_a_study_file_may_say_the_price(fabricated: Any, cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_DATA", "/nowhere")
    place = fabricated([cell({"name": "head"}, 0.7)], sizes=(60, 200)).write(price_per_hour=2.5)
    finish(place)
    assert Summary.read(place).price_per_hour == 2.5
    finish(place, price_per_hour=3.0)
    assert Summary.read(place).price_per_hour == 3.0


def test_a_study_and_its_report_share_what_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []

    def launched(*_: Any, inputs: Any, **__: Any) -> None:
        given.append(inputs)

    def finished(_: Path, *, inputs: Any) -> list[Path]:
        given.append(inputs)
        return [Path("report.html")]

    monkeypatch.setattr("loratory.finish.launch", launched)
    monkeypatch.setattr("loratory.finish.finish", finished)
    file = tmp_path / "s.yaml"
    file.write_text("{name: s, data: [d.csv], models: [m], methods: [{name: head}], seeds: [0]}", encoding="utf8")
    complete(file)
    assert isinstance(given[0], Inputs)
    assert given[0] is given[1]


def test_a_report_that_cannot_be_drawn_is_said_before_the_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    monkeypatch.setitem(theme.PACKAGES, "no_such_module", "a-package")
    monkeypatch.setattr("loratory.finish.launch", lambda *_, **__: said.append(caplog.text))
    monkeypatch.setattr("loratory.finish.finish", lambda *_, **__: [Path("report.html")])
    file = tmp_path / "s.yaml"
    file.write_text("{name: s, data: [d.csv], models: [m], methods: [{name: head}], seeds: [0]}", encoding="utf8")
    complete(file, output=tmp_path / "here")
    assert "the report needs what is not installed: pip install a-package before the runs end" in said[0]
    assert f"loratory report {tmp_path / 'here'}" in said[0]


def test_summary_and_page_share_what_was_read(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def summarised(runs: Any, *, inputs: Any) -> Summary:
        given.append(inputs)
        return summarise(runs, inputs=inputs, draws=100)

    def written(directory: Path, summary: Summary, inputs: Any) -> list[Path]:
        given.append(gather(directory, summary, inputs).inputs)
        return []

    monkeypatch.setattr("loratory.finish.summarise", summarised)
    monkeypatch.setattr("loratory.finish.write", written)
    finish(study)
    before = Inputs()
    finish(study, inputs=before)
    assert isinstance(given[0], Inputs)
    assert given[0] is given[1]
    assert given[2] is given[3] is before


def test_a_price_that_is_none_is_refused_before_anything_is_written(study: Path, capsys: Any) -> None:
    assert main(["report", str(study), "--price-per-hour", "-1"]) == 2
    assert capsys.readouterr().err == "error: --price-per-hour -1.0: give an amount of 0 or more\n"
    assert not (study / "report.html").exists()


@pytest.mark.parametrize("left_out", ["plan.json", "runs"])
def test_a_copy_without_plan_or_runs_keeps_its_summary(
    finished: tuple[Path, list[Path]], tmp_path: Path, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATORY_DATA", "/nowhere")
    shutil.copytree(finished[0], copy := tmp_path / "copy", ignore=shutil.ignore_patterns(left_out))
    before = (copy / SUMMARY).read_bytes()
    (copy / "report.html").unlink()
    assert copy / SUMMARY not in finish(copy)
    assert (copy / "report.html").is_file()
    assert (copy / SUMMARY).read_bytes() == before


def test_a_plan_without_runs_has_a_report_that_says_so(study: Path) -> None:
    shutil.rmtree(study / "runs")
    finish(study)
    assert "No setting has a finished run yet" in (study / "report.html").read_text("utf8")
    assert Summary.read(study).missing == 14


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no study"):
        finish(tmp_path)


def test_the_command_finishes_and_lists_what_it_wrote(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["report", str(study), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written[0] == str(study / "report.html")
    assert str(study / SUMMARY) in written
    monkeypatch.setattr(
        "loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"]
    )  # as before
    assert main(["report", str(study)]) == 0
    assert str(study / "report.html") in capsys.readouterr().out
