"""What tables and page say of costs, chosen rates, baselines and intervals where a newcomer could misread them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from loratory import units
from loratory.report.choosing import tuning_said
from loratory.report.comparing import over_data, pairs_grid, quality_grid
from loratory.report.drawing import bar_said, times
from loratory.report.evidence import gather
from loratory.report.prose import limits, price_said
from loratory.report.study_table import study_table

Document = dict[str, Any]


def cohorts_of(cells: list[Document], which: int) -> list[Document]:
    """The cells, the first so many as those whose runs trained in cohorts."""
    none = dict.fromkeys(("total_seconds", "setup_seconds", "eval_seconds"))
    return [
        {**cell, "cohorts": 5, "cost": {k: v for k, v in cell["cost"].items() if k not in none}} if n < which else cell
        for n, cell in enumerate(cells)
    ]


@pytest.mark.parametrize(("which", "priced"), [(0, True), (2, True), (4, False)])
def test_empty_totals_of_cohorts_are_explained_and_no_price_is_said_where_there_is_none(
    which: int, priced: bool, summary: Document, read_back: Any
) -> None:
    cells = cohorts_of(summary["cells"], which)
    study = read_back({**summary, "cells": cells, "baselines": [], "price_per_hour": 2.5})
    notes = study_table(study).notes
    why = [note for note in notes if note.startswith("Total time and price are empty for runs that trained in cohorts")]
    assert len(why) == bool(which)
    assert ("Price: total time at 2.5 an hour." in notes) == priced
    plain = study_table(dataclasses.replace(study, price_per_hour=None)).notes
    assert any(note.startswith("Total time is empty") for note in plain) == bool(which)
    assert not any("rice" in note for note in plain)


def test_what_a_study_of_cohorts_cost_is_the_sum_of_shares(summary: Document, read_back: Any, place: Path) -> None:
    study = read_back({**summary, "price_per_hour": 3.6})
    found = gather(place, study)
    alone = list(found.records.values())
    shares = {"setup": 1.0, "train": 2.0}
    joint = [dataclasses.replace(one, cohort={"share_seconds": shares}) for one in alone]
    assert "took" in price_said(study, found)
    assert "one after the other" in price_said(study, found)
    for number, says in ((len(alone), "the sum of their shares of the time that"), (1, "of the 1 that trained in")):
        mixed = {one.id: one for one in (*joint[:number], *alone[number:])}
        text = price_said(study, dataclasses.replace(found, records=mixed))
        assert says in text
        assert "one after the other" not in text
        seconds = 3.0 * number + sum(one.cost["total_seconds"] for one in alone[number:])
        assert f": {units.price(seconds / 1000)}." in text


def test_of_an_even_number_of_seeds_the_bar_says_which_run_it_is(
    tmp_path: Path, make_study: Any, read_back: Any
) -> None:
    for seeds, even in (((0, 1), True), ((0, 1, 2), False)):
        study = read_back(make_study(tmp_path / str(even), (({"name": "standard"}, 0.85),), seeds=seeds))
        cost = study.cells[0].cost["total_seconds"]
        drawn = sum((times(study.cells[0]) or {}).values())
        assert drawn == pytest.approx(min(cost.values) if even else cost.median)
        for key, noun in (("total_seconds", "total time"), ("train_seconds", "training time")):
            said = bar_said(study, study.cells, key)
            assert said.startswith(f"Each bar is the run with the median {noun}")
            assert ("the shorter of the two in the middle" in said) == even


def test_times_two_is_explained_only_where_it_stands(summary: Document, read_back: Any) -> None:
    study = read_back({**summary, "tune_seeds": "each"})
    assert not any("×2" in note for note in study_table(study).notes)
    assert "×2" not in tuning_said(study)
    (choice,) = summary["cells"][0]["tuning"]["choices"]
    two = [{**choice, "seeds": [0, 1]}, {**choice, "seeds": [2, 3, 4], "lr": 7e-4}]
    cell = {**summary["cells"][0], "tuning": {**summary["cells"][0]["tuning"], "choices": two}}
    study = read_back({**summary, "tune_seeds": "each", "cells": [cell, *summary["cells"][1:]]})
    assert any(note.endswith("×2 means that two seeds chose it.") for note in study_table(study).notes)
    assert "×2 by two seeds" in tuning_said(study)


def test_parameters_of_baselines_stand_in_a_study_as_in_a_comparison(summary: Document, read_back: Any) -> None:
    counts = (0, 0, 22_349)
    known = [{**one, "parameters": n} for one, n in zip(summary["baselines"], counts, strict=True)]
    study = read_back({**summary, "baselines": known})
    table = study_table(study)
    shown = next(column.show for column in table.columns if column.key == "trainable")
    assert [shown(row) for row in table.rows[-3:]] == ["0", "0", "22.3k"]
    assert [entry.entries[1].text for entry in quality_grid(study, study.groups[0]).foot] == ["0", "0", "22.3k"]
    assert table.notes.count("Parameters of TF-IDF + logistic regression: its coefficients and intercepts.") == 1


def test_a_baseline_that_is_left_out_everywhere_has_no_row_over_data(summary: Document, read_back: Any) -> None:
    second = [{**cell, "id": f"{cell['id']}b", "data": "b.csv"} for cell in summary["cells"]]
    out = {"accuracy": None, "f1_macro": None, "seconds": None, "reason": "other labels"}
    both = [{**one, "data": data} for one in summary["baselines"] for data in ("hutto:movies", "b.csv")]
    for left_out in (1, 2):
        data = ("b.csv", "hutto:movies")[:left_out]
        some = [{**one, **(out if one["name"] == "VADER" and one["data"] in data else {})} for one in both]
        cells = [*summary["cells"], *second]
        grid = over_data(read_back({**summary, "cells": cells, "pairs": [], "fronts": [], "baselines": some}))
        assert grid is not None
        assert ("VADER" in [line.entries[0].text for line in grid.foot]) == (left_out == 1)


def test_below_three_common_seeds_the_page_draws_no_interval(tmp_path: Path, make_study: Any, read_back: Any) -> None:
    for seeds in ((0, 1), (0, 1, 2)):
        levels = (({"name": "standard"}, 0.85), ({"name": "head"}, 0.7))
        study = read_back(make_study(tmp_path / str(len(seeds)), levels, seeds=seeds))
        grid = pairs_grid(study, study.groups[0])
        assert grid is not None
        (pair,) = grid.rows
        whisker = pair.entries[1].whisker
        assert whisker is not None
        known = len(seeds) == 3
        assert [whisker.low is not None, whisker.outer is not None, pair.entries[1].sub != ""] == [known] * 3
        assert any("no interval below 3 common seeds" in heading.text for heading in grid.headings) == (not known)
        assert any(heading.text.startswith("p") for heading in grid.headings) == known
        assert len(grid.headings) == len(pair.entries)


@pytest.mark.parametrize(("kind", "share", "said"), [("resident", 0.9, 1), ("resident", 0.8, 0), ("allocated", 0.9, 0)])
def test_memory_that_a_cpu_does_not_tell_apart_is_noted(
    kind: str, share: float, said: int, summary: Document, read_back: Any
) -> None:
    cells = []
    for number, cell in enumerate(summary["cells"]):
        peak = 1e9 * share**number
        cost = {"median": peak, "low": peak, "high": peak, "values": [peak] * 5, "kind": kind}
        cells.append({**cell, "cost": {**cell["cost"], "peak_memory_bytes": cost}})
    study = read_back({**summary, "cells": cells})
    assert sum("below 15% are not resolved" in note for note in study_table(study).notes) == said
    assert sum("below 15% are not resolved" in text for text in limits(study)) == said
