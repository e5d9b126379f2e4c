"""A study's summary: what its runs hold, compared within a data set x model, ready for JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from loratory.errors import DataError, StorageError
from loratory.evaluation import predictions
from loratory.evaluation.predictions import Predictions
from loratory.inputs import Inputs
from loratory.spec import DataSpec
from loratory.store.directory import PREDICTIONS, RECORD, commit, read_run, staging
from loratory.study.document import Summary
from loratory.study.fronts import fronts
from loratory.study.parts import CellSummary, Pair
from loratory.study.results import load_study
from loratory.study.summary import summarise

STANDARD = {"name": "standard"}
DRAWS = 500


def lora(rank: int, **changes: Any) -> dict[str, Any]:
    return {"name": "lora", "rank": rank, "alpha": 2 * rank, "targets": "attention", **changes}


@pytest.fixture(scope="module")
def summary(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Summary:
    """Standard, LoRA like it, one that is worse, one that is LoRA again, and one with three seeds."""
    cells = [
        cell(STANDARD, 0.86, seconds=60),
        cell(lora(8), 0.86, seconds=40, memory=2**29),
        cell(lora(1), 0.78, seconds=39, failed={4: "diverged"}),
        cell(lora(8, targets="all-linear"), 0.86, seconds=50, like=2),
        cell(lora(1), 0.80, data="hutto:tweets", absent=[3, 4]),
        cell(lora(2), 0.82, data="hutto:tweets"),
    ]
    study = load_study(fabricated(cells, sizes=(200, 1500)).write())
    return summarise(study, with_baselines=False, draws=DRAWS)


def pair(summary: Summary, a: str, b: str) -> Pair:
    return next(one for one in summary.pairs if (one.a, one.b) == (a, b))


def test_it_goes_through_json_unchanged(summary: Summary) -> None:
    document = summary.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert json.loads(summary.to_json()) == document
    assert document["schema"] == 2


def test_it_is_the_same_each_time(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    study = load_study(fabricated([cell(STANDARD), cell(lora(8))], sizes=(30, 100)).write())
    one, again, other = (summarise(study, with_baselines=False, draws=DRAWS, seed=seed).to_dict() for seed in (0, 0, 1))
    assert one == again
    assert one["pairs"][0]["difference"] == other["pairs"][0]["difference"]
    assert one["pairs"][0]["low"] != other["pairs"][0]["low"]


def test_a_cell_is_what_its_runs_hold(summary: Summary) -> None:
    cell = summary.cells[0]
    assert (cell.approach, cell.tuning.chosen, cell.seeds) == ("standard", {2e-3: 5}, (0, 1, 2, 3, 4))
    accuracy = cell.quality["test"]["accuracy"]
    assert accuracy.mean == pytest.approx(np.mean(accuracy.values))
    assert set(cell.quality["validation"]) == {"accuracy", "f1_macro", "f1_weighted", "mcc", "log_loss", "ece"}
    seconds = cell.cost["train_seconds"]
    assert (seconds.median, seconds.low, seconds.high) == (60.2, 60.0, 60.4)
    assert cell.cost["peak_memory_bytes"].kind == "resident"
    assert cell.padding_share == pytest.approx(0.2)
    assert sum((cell.memory_parts_bytes or {}).values()) == 2**30
    assert [trial.lr for trial in cell.tuning.trials] == [1e-3, 2e-3]
    scores = [trial.score or 0 for trial in cell.tuning.trials]
    assert [one.score for one in cell.tuning.expected_best] == pytest.approx([np.mean(scores), max(scores)])


def test_the_most_runs_at_once_are_known_where_every_record_says_so(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    numbers: list[tuple[int | None, ...]] = [(1,), (1, 3), (2, None), (None,)]
    cells = [cell({"name": "standard"}, at_once=at_once, data=f"{place}") for place, at_once in enumerate(numbers)]
    found = summarise(load_study(fabricated(cells, sizes=(60, 200)).write()), with_baselines=False, draws=10)
    assert [one.runs_at_once for one in found.cells] == [1, 3, None, None]


def test_time_to_a_score_that_every_cell_reaches(summary: Summary) -> None:
    movies = [cell for cell in summary.cells if cell.data == "hutto:movies"]
    target = min(cell.quality["validation"]["accuracy"].mean for cell in movies)
    assert [cell.time_to and cell.time_to.score for cell in movies] == [target] * 4
    first = movies[0].time_to
    assert first is not None
    assert (first.seconds.median, first.seconds.reached) == (30.0, 5)  # after the first of two epochs


def test_cells_are_named_apart(summary: Summary) -> None:
    names = [cell.approach for cell in summary.cells]
    assert names[:4] == ["standard", "lora r=8 attention", "lora r=1 attention", "lora r=8 all-linear"]
    assert names[4] == "lora r=1 attention"  # in another data set


def test_pairs_stay_within_data_and_model(summary: Summary) -> None:
    assert {(one.a, one.b) for one in summary.pairs} == {
        *(("c1", "c2"), ("c1", "c3"), ("c1", "c4"), ("c2", "c3"), ("c2", "c4"), ("c3", "c4"), ("c5", "c6")),
    }
    assert {one.family for one in summary.pairs} == {6, 1}


def test_verdicts(summary: Summary) -> None:
    assert (pair(summary, "c2", "c4").difference, pair(summary, "c2", "c4").verdict) == (0, "equivalent")
    few = pair(summary, "c5", "c6")
    assert (few.verdict, few.why_none, few.seeds) == (None, "3 common seeds; a verdict needs 5", 3)
    assert few.low is not None
    worse = pair(summary, "c1", "c3")
    assert (worse.verdict, worse.why_none, worse.seeds) == (None, "1 of 5 final runs of the second failed", 4)
    assert worse.p is not None
    assert worse.p_holm is not None
    assert worse.p <= worse.p_holm <= 6 * worse.p


def test_the_difference_is_that_of_common_seeds(summary: Summary) -> None:
    a, b = (cell.quality["test"]["accuracy"].values for cell in (summary.cells[0], summary.cells[2]))
    assert pair(summary, "c1", "c3").difference == pytest.approx(np.mean(a[:4]) - np.mean(b))


def test_failed_and_missing_runs_are_told(summary: Summary) -> None:
    assert (summary.complete, summary.missing) == (False, 2)
    assert [(one.cell, one.stage, one.status, one.error) for one in summary.failed] == [
        ("c3", "final", "diverged", "on purpose")
    ]
    assert summary.cells[2].failed == (summary.failed[0].run,)
    assert [one["dataset"] for one in summary.data] == ["hutto:movies", "hutto:tweets"]
    assert summary.environment is not None
    assert summary.environment["device"] == "cpu"


def test_a_study_without_runs_has_a_summary(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    place = fabricated([cell(STANDARD, absent=range(5)), cell(lora(8), absent=range(5))]).write()
    found = summarise(load_study(place), draws=DRAWS)
    assert (found.missing, found.pairs, found.fronts, found.environment) == (10, (), (), None)
    assert found.to_dict()["cells"][0]["time_to"] is None


def test_log_loss_is_better_where_it_is_lower(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    cells = [cell(STANDARD, 0.70), cell(lora(8), 0.90)]
    study = load_study(fabricated(cells, sizes=(200, 1500)).write(select="log_loss"))
    found = summarise(study, with_baselines=False, draws=DRAWS)
    assert found.pairs[0].difference is not None
    assert found.pairs[0].difference > 0
    assert found.pairs[0].verdict == "worse"
    assert found.cells[0].time_to is not None
    assert found.cells[0].time_to.seconds.reached == 0  # these histories hold accuracy alone


def rewritten(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Commit the run again with other predictions."""
    record, splits = read_run(run), predictions.read(run / PREDICTIONS)
    history = (run / "history.jsonl").read_bytes()
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    with staging(run) as stage:
        (stage / RECORD).write_text(record.to_json(), encoding="utf8")
        (stage / "history.jsonl").write_bytes(history)
        predictions.write(stage / PREDICTIONS, change(splits))
        commit(stage, run)


def test_other_test_examples_do_not_compare(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    place = fabricated([cell(STANDARD), cell(lora(8))], sizes=(30, 100)).write()

    def fewer(kept: dict[str, Any]) -> dict[str, Any]:
        return {
            part: Predictions(one.labels[:-1], one.logits[:-1], one.rows[:-1], one.units[:-1])
            for part, one in kept.items()
        }

    second = load_study(place).cells[1]
    rewritten(second.finals[0].directory, fewer)
    with pytest.raises(StorageError, match="tested on different examples"):
        summarise(load_study(place), with_baselines=False)
    for final in second.finals[1:]:
        rewritten(final.directory, fewer)
    found = summarise(load_study(place), with_baselines=False, draws=DRAWS).pairs[0]
    assert (found.difference, found.verdict, found.why_none) == (None, None, "they were tested on different examples")


def test_few_units_give_no_verdict(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    place = fabricated([cell(STANDARD), cell(lora(8))], sizes=(30, 100)).write()

    def grouped(kept: dict[str, Any]) -> dict[str, Any]:
        units = np.minimum(np.arange(100), 11)  # eleven single examples, and one unit of 89
        return {**kept, "test": dataclasses.replace(kept["test"], units=units)}

    for one in load_study(place).cells:
        for final in one.finals:
            rewritten(final.directory, grouped)
    (found,) = summarise(load_study(place), with_baselines=False, draws=DRAWS).pairs
    assert (found.examples, found.units, found.verdict) == (100, 12, None)
    assert found.why_none is not None
    assert found.why_none.startswith("12 units (texts or groups) in the test split, as good as 1.3 of one size")


def test_a_run_without_test_predictions_is_refused(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> None:
    place = fabricated([cell(STANDARD)], sizes=(30, 100)).write()
    rewritten(load_study(place).cells[0].finals[0].directory, lambda kept: {"validation": kept["validation"]})
    with pytest.raises(StorageError, match="holds no test split"):
        summarise(load_study(place), with_baselines=False)


def test_baselines_need_the_data_on_this_machine(
    fabricated: Callable[..., Any], cell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATORY_DATA", str(tmp_path / "nothing"))
    gone = str(tmp_path / "gone.csv")
    cells = [cell(STANDARD, data=data) for data in ("hutto:movies", "hub:some/where", gone)]
    found = summarise(load_study(fabricated(cells, sizes=(30, 50)).write()), draws=DRAWS).baselines
    assert [(one.data, one.accuracy) for one in found] == [
        ("hutto:movies", None),
        ("hub:some/where", None),
        (gone, None),
    ]
    assert [word in (one.reason or "") for one, word in zip(found, ("data fetch", "network", "gone.csv"), strict=True)]


def test_baselines_of_data_that_is_there(
    fabricated: Callable[..., Any], cell: Callable[..., Any], tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loratory.data import make_dataset

    place = fabricated([cell(STANDARD, data=str(tiny_csv))], sizes=(30, 50)).write()
    assert "has changed" in (summarise(load_study(place), draws=DRAWS).baselines[0].reason or "")
    dataset = make_dataset(DataSpec(dataset=str(tiny_csv)))
    monkeypatch.setattr("loratory.study.summary.dataset_of", lambda record, read: dataset)
    found = summarise(load_study(place), draws=DRAWS).baselines
    assert [one.name for one in found] == ["majority class", "VADER", "TF-IDF + logistic regression"]
    assert found[0].accuracy == pytest.approx(0.5, abs=0.1)
    assert found[1].reason is not None
    assert found[2].f1_macro is not None
    assert found[0].parameters == 0
    assert found[1].parameters is None
    assert (found[2].parameters or 0) > 1


def test_the_data_of_all_sizes_are_read_as_the_runs_read_them(
    fabricated: Callable[..., Any], cell: Callable[..., Any], tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []

    def dataset_of(record: Any, read: Any) -> Any:
        reads.append(read)
        raise DataError("not now")

    monkeypatch.setattr("loratory.study.summary.dataset_of", dataset_of)
    inputs = Inputs()
    cells = [cell(STANDARD, data=str(tiny_csv), limit=limit) for limit in (20, None)]
    summarise(load_study(fabricated(cells, sizes=(30, 50)).write()), inputs=inputs, draws=DRAWS)
    assert reads == [inputs.dataset] * 2


def test_a_source_is_spoken_of_once_for_all_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("text,label\n" + "".join(f"w{n} w{n + 1},{n / 7:.3f}\n" for n in range(60)), encoding="utf8")
    inputs = Inputs()
    with caplog.at_level("INFO", logger="loratory"):
        for limit in (10, 20, None):
            inputs.dataset(DataSpec(dataset=str(file), limit=limit))
    assert sum("a regression" in message for message in caplog.messages) == 1


def cells_at(costs: dict[str, float], scores: dict[str, float]) -> list[CellSummary]:
    from loratory.study.measured import Cost
    from loratory.study.parts import Tuning
    from loratory.study.statistics import over_seeds

    empty = {"seeds": (), "runs": (), "parameters": None, "memory_parts_bytes": None}
    return [
        CellSummary(
            id=name,
            data="d",
            model="m",
            method={"name": name},
            approach=name,
            quality={"test": {"accuracy": over_seeds([scores[name]])}},
            cost={"train_seconds": Cost(cost, cost, cost, (cost,))},
            padding_share=None,
            tuning=Tuning((), (), ()),
            time_to=None,
            failed=(),
            missing=0,
            **empty,
        )
        for name, cost in costs.items()
    ]


def judged(a: str, b: str, verdict: Any) -> Pair:
    return Pair(a, b, "accuracy", 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 3, verdict, None, 5, 100, 100)


def test_the_front_keeps_ties() -> None:
    cells = cells_at({"dear": 3.0, "cheap": 1.0, "poor": 2.0}, {"dear": 0.9, "cheap": 0.89, "poor": 0.7})
    pairs = [
        judged("dear", "cheap", "inconclusive"),
        judged("dear", "poor", "better"),
        judged("cheap", "poor", "better"),
    ]
    (front,) = fronts(cells, pairs, metric="accuracy")
    assert front.axis == "train_seconds"
    assert [(one.cell, one.on_front, one.tied_with) for one in front.points] == [
        ("cheap", True, ("dear",)),
        ("poor", False, ()),
        ("dear", True, ("cheap",)),
    ]


def test_times_compare_only_where_as_many_runs_shared_the_device(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    cells = [cell(STANDARD, 0.6, seconds=30.0, at_once=[4]), cell(lora(8), 0.9, seconds=10.0, at_once=[1])]
    found = summarise(load_study(fabricated(cells).write()), with_baselines=False, draws=DRAWS)
    (said,) = (one.text for one in found.observations if "lora r=8 attention trains for" in one.text)
    assert "which does not compare with the 30.2 s of standard; " in said
    fronts = {front.axis: [point.cell for point in front.points if point.on_front] for front in found.fronts}
    assert fronts["train_seconds"] == fronts["total_seconds"] == ["c2", "c1"]
    assert fronts["peak_memory_bytes"] == ["c2"]


def test_one_slow_seed_does_not_make_the_cheapest_as_dear_as_the_next() -> None:
    cells = cells_at({"cheap": 1.0, "dear": 1.3}, {"cheap": 0.7, "dear": 0.9})
    for values, on_front in (((1.0, 1.0, 1.0, 1.0, 1.4), True), ((1.0, 1.0, 1.0, 1.4, 1.4), False)):
        cost = dataclasses.replace(cells[0].cost["train_seconds"], low=1.0, high=1.4, values=values)
        found = [dataclasses.replace(cells[0], cost={"train_seconds": cost}), cells[1]]
        (front,) = fronts(found, [judged("dear", "cheap", "better")], metric="accuracy")
        assert [(one.cell, one.on_front) for one in front.points] == [("cheap", on_front), ("dear", True)]


def test_no_share_of_padding_where_steps_compute_less_than_all_tokens(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    directory = fabricated([cell(STANDARD, 0.8)]).write()
    study = load_study(directory)
    assert summarise(study, with_baselines=False, draws=DRAWS).cells[0].padding_share == pytest.approx(0.2)
    for final in study.cells[0].finals:
        cast(dict[str, Any], final.record["cost"])["padded_tokens"] = 64  # a frozen encoder had run once: heads alone
    assert summarise(study, with_baselines=False, draws=DRAWS).cells[0].padding_share is None


@pytest.mark.parametrize(
    ("absent", "verdict", "why"), [([5], None, "1 run of the second is missing"), ([], "better", None)]
)
def test_a_verdict_waits_for_missing_runs(
    absent: list[int], verdict: str | None, why: str | None, fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    place = fabricated([cell(STANDARD, 0.9), cell(lora(8), 0.6, absent=absent)], seeds=range(6)).write()
    (pair,) = summarise(load_study(place), with_baselines=False, draws=DRAWS).pairs
    assert (pair.verdict, pair.why_none, pair.seeds) == (verdict, why, 6 - len(absent))


def test_at_the_same_cost_the_better_is_on_the_front() -> None:
    cells = cells_at({"a": 1.0, "b": 1.0}, {"a": 0.9, "b": 0.8})
    (front,) = fronts(cells, [judged("b", "a", "worse")], metric="accuracy")
    assert [(one.cell, one.on_front) for one in front.points] == [("a", True), ("b", False)]
    (front,) = fronts(cells, [judged("b", "a", None)], metric="accuracy")
    assert all(one.on_front for one in front.points)


def test_planned_pairs_count_in_the_family_before_they_have_runs(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    place = fabricated([cell(STANDARD), cell(lora(8)), cell(lora(4), absent=range(5))]).write()
    (one,) = summarise(load_study(place), draws=DRAWS).pairs
    assert one.family == 3
    assert one.p is not None
    assert one.p_holm == pytest.approx(min(1.0, 3 * one.p))


def test_of_a_falling_metric_the_score_that_every_cell_reaches_is_the_highest(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    place = fabricated([cell(STANDARD), cell(lora(8), accuracy=0.6)]).write(select="log_loss")
    found = summarise(load_study(place), draws=DRAWS).cells
    means = [one.quality["validation"]["log_loss"].mean for one in found]
    assert means[0] != means[1]
    assert all(one.time_to is not None and one.time_to.score == max(means) for one in found)
