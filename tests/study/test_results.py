"""A study's directory is read as it is: done, half done, or damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import StorageError
from loratory.finish import finish
from loratory.store.directory import read_run
from loratory.study.cells import cells
from loratory.study.layout import LAUNCHER, digest_of
from loratory.study.lock import launching
from loratory.study.progress import read_status
from loratory.study.results import load_study
from loratory.study.summary import summarise

STANDARD, LORA = {"name": "standard"}, {"name": "lora", "rank": 8, "targets": "attention"}


@pytest.fixture
def place(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Path:
    """Two cells; seed 1 of the second diverged, its seed 2 is not there yet."""
    cells = [cell(STANDARD), cell(LORA, failed={1: "diverged"}, absent=[2])]
    found: Path = fabricated(cells, seeds=range(3), sizes=(30, 40)).write(margin=0.02)
    return found


def choice_of(plan: dict[str, Any]) -> dict[str, Any]:
    """The first cell's."""
    found: dict[str, Any] = plan["cells"][0]["choices"][0]
    return found


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text("utf8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf8")


def test_what_is_there_is_read(place: Path) -> None:
    study = load_study(place)
    assert (study.name, study.select, study.margin, study.seeds) == ("fabricated", "accuracy", 0.02, (0, 1, 2))
    first, second = study.cells
    assert (first.id, first.data, first.model, first.method) == ("c1", "hutto:movies", "minilm", STANDARD)
    assert [(choice.seeds, choice.lr, choice.hopeless) for choice in first.choices] == [((0, 1, 2), 2e-3, False)]
    assert [(trial.lr, trial.status) for trial in first.trials] == [(1e-3, "completed"), (2e-3, "completed")]
    trial = read_run(place / "runs" / first.trials[0].run)
    assert first.trials[0].score == trial.quality["validation"]["accuracy"]
    assert [row["epoch"] for row in first.trials[0].history] == [1, 2]
    assert [final.seed for final in first.completed] == [0, 1, 2]
    assert first.finals[0].record == read_run(first.finals[0].directory).to_dict()
    assert (first.missing, second.missing) == (0, 1)
    assert [(final.seed, final.completed) for final in second.finals] == [(0, True), (1, False)]
    assert second.finals[1].history == ()
    assert study.groups == {("hutto:movies", "minilm", None): (first, second)}


def test_runs_that_are_planned_and_not_there_are_missing(place: Path) -> None:
    changed(place / "plan.json", lambda plan: choice_of(plan)["finals"][0].update(run="not-yet"))
    changed(place / "plan.json", lambda plan: choice_of(plan).update(selection=None))
    cell = load_study(place).cells[0]
    assert (cell.missing, cell.choices[0].lr, [final.seed for final in cell.finals]) == (1, None, [1, 2])


@pytest.mark.parametrize("name", ["run.json", "predictions.parquet", "history.jsonl", "manifest.json"])
def test_a_damaged_run_is_left_out_and_told_in_one_line(
    place: Path, name: str, caplog: pytest.LogCaptureFixture, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    cell = load_study(place).cells[0]
    path = cell.finals[0].directory / name
    path.write_bytes(path.read_bytes()[:-3])
    before = snapshot(place)
    left = load_study(place).cells[0]
    assert (left.missing, len(left.finals)) == (cell.missing + 1, len(cell.finals) - 1)
    (line,) = caplog.messages
    assert f"{path.parent.name}/{name} is damaged" in line
    assert line.endswith("; left out")
    caplog.clear()
    assert read_status(place).progress.cells[0].finals_done == len(left.finals)
    assert len(caplog.messages) == 1
    assert snapshot(place) == before  # who only looks moves nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("margin"), "damaged .KeyError: 'margin'"),
        (lambda plan: plan.update(seeds=["x"]), "damaged .ValueError"),
        (lambda plan: plan.update(cells=None), "damaged .TypeError"),
        (lambda plan: plan["cells"][0].pop("method"), "damaged .KeyError: 'method'"),
        (lambda plan: plan.update(tune_seeds="none"), "damaged .ValueError: tune_seeds is 'none'"),
        (lambda plan: choice_of(plan)["finals"][0].update(run="../../etc"), "not a plain name"),
        (lambda plan: choice_of(plan).update(selection="../x"), "not a plain name"),
        (lambda plan: choice_of(plan).update(selection="feed"), r"feed\.json is not there"),
        (lambda plan: plan.update(schema=1), "another schema than 2"),
    ],
)
def test_a_damaged_plan_is_one_line(place: Path, change: Callable[..., Any], message: str) -> None:
    changed(place / "plan.json", change)
    with pytest.raises(StorageError, match=message) as caught:
        load_study(place)
    assert "\n" not in str(caught.value)


def test_the_status_of_a_damaged_plan_is_one_line(place: Path) -> None:
    changed(place / "plan.json", lambda plan: plan["cells"][0].pop("choices"))
    with pytest.raises(StorageError, match=r"plan\.json is damaged .KeyError: 'choices'.; run the study again"):
        read_status(place)


def test_the_status_of_a_study_that_is_not_planned_yet_names_who_plans_it(tmp_path: Path) -> None:
    for look in (read_status, finish):
        with launching(tmp_path):
            with pytest.raises(StorageError, match=r"is not planned yet; process \d+ on .* since .*: ask"):
                look(tmp_path)
            (tmp_path / LAUNCHER).unlink()  # as before it is written
            with pytest.raises(StorageError, match=r"is not planned yet; a process is starting it: ask again"):
                look(tmp_path)
        with pytest.raises(StorageError, match=r"has no plan, and nobody is running it; `loratory study run` with its"):
            look(tmp_path)


def test_other_places_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"plan\.json is not there; give the directory of a study"):
        load_study(tmp_path)
    (tmp_path / "plan.json").write_text("{", encoding="utf8")
    with pytest.raises(StorageError, match="cannot be read"):
        load_study(tmp_path)
    with pytest.raises(StorageError, match="is not a directory"):
        load_study(tmp_path / "plan.json")


def test_a_selection_names_its_choice(place: Path) -> None:
    path = next((place / "selections").iterdir())
    changed(path, lambda selection: selection.update(chosen={"lr": "much"}))
    with pytest.raises(StorageError, match="is not what its name says: it was changed"):
        load_study(place)


def other_rate(selection: dict[str, Any]) -> None:
    (other,) = {one["lr"] for one in selection["trials"]} - {selection["chosen"]["lr"]}
    selection["chosen"]["lr"] = other


def other_score(selection: dict[str, Any]) -> None:
    selection["trials"][0]["score"] += 0.25


def none_of_its_trials(selection: dict[str, Any]) -> None:
    selection["trials"] = []


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (other_rate, "chose lr .*, not the best of its trials"),
        (other_score, "is not of what .* says of its rate and score"),
        (none_of_its_trials, "is not of what .* says of its rate and score"),
    ],
)
def test_a_selection_follows_from_its_trials_whatever_its_name_says(
    place: Path, forge: Callable[[dict[str, Any]], None], message: str
) -> None:
    plan = json.loads((place / "plan.json").read_text("utf8"))
    one = choice_of(plan)
    selection = json.loads((place / "selections" / f"{one['selection']}.json").read_text("utf8"))
    forge(selection)
    text = json.dumps(selection)
    one["selection"] = digest_of(text)
    (place / "selections" / f"{one['selection']}.json").write_text(text, encoding="utf8")
    (place / "plan.json").write_text(json.dumps(plan), encoding="utf8")
    with pytest.raises(StorageError, match=message) as caught:
        load_study(place)
    assert "\n" not in str(caught.value)


def test_a_final_run_of_an_earlier_selection_is_told(place: Path) -> None:
    assert [cell.scored_before for cell in cells(load_study(place))] == [0] * len(load_study(place).cells)
    plan = json.loads((place / "plan.json").read_text("utf8"))
    one = choice_of(plan)
    path = place / "selections" / f"{one['selection']}.json"
    text = path.read_text("utf8").replace('"trials": [', '"trials": [ ')  # the same choice, written at another time
    one["selection"] = digest_of(text)
    (place / "selections" / f"{one['selection']}.json").write_text(text, encoding="utf8")
    (place / "plan.json").write_text(json.dumps(plan), encoding="utf8")
    study = load_study(place)
    assert cells(study)[0].scored_before == len(study.cells[0].completed) > 0


def test_a_final_run_has_the_rate_that_was_chosen(place: Path) -> None:
    plan = json.loads((place / "plan.json").read_text("utf8"))
    one = choice_of(plan)
    one["trials"] = []  # one rate, which nothing was chosen from
    text = json.dumps({"schema": 2, "trials": [], "chosen": {"lr": 0.5}})
    one["selection"] = digest_of(text)
    (place / "selections" / f"{one['selection']}.json").write_text(text, encoding="utf8")
    (place / "plan.json").write_text(json.dumps(plan), encoding="utf8")
    with pytest.raises(StorageError, match=r"was trained with lr .*, where 0\.5 was chosen"):
        load_study(place)


def test_costs_are_medians_of_skewed_values(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    study = load_study(fabricated([cell(STANDARD)], seeds=range(3)).write())
    (one,) = study.cells
    finals = tuple(
        dataclasses.replace(final, record={**final.record, "cost": {**final.record["cost"], "train_seconds": seconds}})
        for final, seconds in zip(one.finals, (1.0, 2.0, 9.0), strict=True)
    )
    choice = dataclasses.replace(one.choices[0], finals=finals)
    study = dataclasses.replace(study, cells=(dataclasses.replace(one, choices=(choice,)),))
    cost = summarise(study, draws=500).cells[0].cost["train_seconds"]
    assert (cost.median, cost.low, cost.high) == (2.0, 1.0, 9.0)
