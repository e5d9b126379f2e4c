"""Every seed chooses its own rate, or the first for all: what each choice is made from, and what comes of it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import loratory.study.jobs as jobs
from loratory.cli import main
from loratory.disk.manifest import MANIFEST
from loratory.finish import finish
from loratory.report import curves
from loratory.report.families import members
from loratory.report.prose import limits
from loratory.report.study_table import study_table
from loratory.study.document import Summary
from loratory.study.launch import launch
from loratory.study.pairs import compare_cells
from loratory.study.reading import read_study
from loratory.study.results import load_study
from loratory.study.summary import summarise

RUNS = 2 * (2 * 2 + 2)
STANDARD, HEAD = {"name": "standard"}, {"name": "head"}


def study(path: Path, output: Path, **settings: str) -> int:
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return main(["study", "run", str(path), "--output", str(output), *given])


def choices(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [choice for cell in plan["cells"] for choice in cell["choices"]]


def test_each_seed_chooses_from_its_own_trials_before_its_final_run(
    study_file: Any, tmp_path: Path, records: Any, plan: Any
) -> None:
    out = tmp_path / "out"
    assert study(study_file(tune_seeds="each"), out) == 0
    found = records(out)
    assert len(found) == RUNS
    assert [choice["seeds"] for choice in choices(plan(out))] == [[3], [4], [3], [4]]
    for choice in choices(plan(out)):
        (seed,) = choice["seeds"]
        path = out / "selections" / f"{choice['selection']}.json"
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] == choice["selection"]
        selection = json.loads(path.read_text("utf8"))
        trials = [found[trial["run"]] for trial in selection["trials"]]
        assert [trial.id for trial in trials] == [trial["run"] for trial in choice["trials"]]
        assert {trial.spec["seed"] for trial in trials} == {selection["seed"]} == {seed}
        assert all(set(trial.quality) == {"validation"} for trial in trials)
        best = max(trials, key=lambda trial: trial.quality["validation"]["accuracy"])  # the smaller rate of equals
        assert selection["chosen"]["lr"] == best.spec["training"]["lr"]
        (final,) = choice["finals"]
        record = found[final["run"]]
        assert (record.spec["seed"], record.spec["training"]["lr"]) == (seed, selection["chosen"]["lr"])
        assert record.study == {"stage": "final", "selection": choice["selection"], "runs_at_once": 1, "apart": None}
        assert os.stat(path).st_mtime <= os.stat(out / "runs" / record.id / MANIFEST).st_mtime
    for cell in plan(out)["cells"]:  # one of the cell keeps its weights, whoever chose its rate
        finals = [found[final["run"]] for choice in cell["choices"] for final in choice["finals"]]
        assert sum(record.weights for record in finals) == 1
    assert [cell.scored_before for cell in Summary.read(out).cells] == [0, 0]


def test_a_final_run_waits_for_the_trials_of_its_own_seed_alone(study_file: Any, tmp_path: Path) -> None:
    spec, text = read_study(study_file(tune_seeds="each"))
    ready = []

    def told(plan: Any, job: Any) -> None:
        ready.append([(job.place.stage, job.spec.seed) for job in plan.missing() if job.place.stage == "final"])

    launch(spec, text, tmp_path / "out", planned=lambda plan, tuning, finals: None, told=told)
    assert ready[:4] == [[], [("final", 3)], [("final", 3)], [("final", 3), ("final", 4)]]


def test_what_the_first_seed_tuned_is_used_again_where_each_seed_chooses(
    study_file: Any, tmp_path: Path, records: Any, plan: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert study(study_file(), out) == 0
    before, of_before = records(out), choices(plan(out))
    assert [choice["seeds"] for choice in of_before] == [[3, 4], [3, 4]]
    capsys.readouterr()
    assert study(study_file(), out, tune_seeds="each") == 0
    err = capsys.readouterr().err
    assert "tune_seeds: first before, each now\n" in err
    assert "are used again; 2 are of other settings" in err  # final runs of the seed that chooses anew
    assert "kept, not used, unless a rate that is yet to be chosen leads to them" in err
    after = records(out)
    assert {name: after[name].cost for name in before} == {name: record.cost for name, record in before.items()}
    late = []
    for position, choice in enumerate(choices(plan(out))):
        old = of_before[position // 2]
        (final,) = choice["finals"]
        if choice["seeds"] == [3]:  # the same trials, hence the same selection and the same final run
            assert [choice[key] for key in ("trials", "selection")] == [old[key] for key in ("trials", "selection")]
            assert final in old["finals"]
        else:
            assert not {trial["run"] for trial in choice["trials"]} & set(before)
            late.append(final["run"] in before)
    assert len(after) == len(before) + 2 * 2 + late.count(False)
    assert [cell.scored_before for cell in Summary.read(out).cells] == list(map(int, late))
    monkeypatch.setattr("loratory.study.jobs.train", None)  # the way back needs no run
    assert study(study_file(), out) == 0
    assert choices(plan(out)) == of_before


def test_a_seed_whose_trials_all_fail_has_no_final_run_and_the_cell_goes_on(
    study_file: Any, tmp_path: Path, plan: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, train = tmp_path / "out", jobs.train

    def fails(spec: Any, **settings: Any) -> Any:
        if (spec.method.name, spec.seed) == ("lora", 4):
            raise RuntimeError("odd")
        return train(spec, **settings)

    path = study_file(tune_seeds="each")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", fails)
        assert study(path, out) == 0
    shown = capsys.readouterr()
    assert "c2 (lora), seed 4: every learning rate failed, so none is chosen" in shown.err
    assert f"{RUNS - 1} runs in" in shown.out
    alone, hopeless = plan(out)["cells"][1]["choices"]
    assert (len(alone["finals"]), hopeless["selection"], hopeless["finals"]) == (1, None, [])
    cell = Summary.read(out).cells[1]
    assert (cell.seeds, cell.tuning.unchosen, cell.missing, cell.failed) == ((3,), 1, 0, ())
    said = next(one for one in Summary.read(out).observations if "every learning rate" in one.text)
    assert said.text.startswith("With 1 of 2 seeds every learning rate of lora r=2")
    assert main(["study", "status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["runs"], status["done"], [len(one["lr"]) for one in status["cells"]]) == (RUNS - 1, RUNS - 1, [2, 1])
    assert main(["study", "run", str(path), "--output", str(out), "--retry-failed"]) == 0
    assert f"{RUNS} runs in" in capsys.readouterr().out


@pytest.fixture
def place(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Path:
    """The seeds of the first cell chose three rates, those of the second one, and the third has a seed without."""
    rates = (1e-3, 2e-3, 4e-3)
    cells = [
        cell(STANDARD, seed_sd=0.05, lrs=rates, chosen=(1, 1, 2, 1, 0)),
        cell(HEAD, 0.8, lrs=rates, chosen=(2,) * 5),
        cell({"name": "lora", "rank": 8}, lrs=rates, chosen=(1, 1, 1, None, 1)),
    ]
    found: Path = fabricated(cells, sizes=(60, 200)).write()
    return found


@pytest.fixture
def summary(place: Path) -> Summary:
    return summarise(load_study(place), with_baselines=False, draws=100)


def test_rates_are_told_with_the_seeds_that_chose_them(place: Path) -> None:
    finish(place)
    summary = Summary.read(place)
    chosen = ["1e-3 ×1, 2e-3 ×3, 4e-3 ×1", "4e-3", "2e-3"]
    table = study_table(summary)
    lines = table.to_markdown().splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:5]] == chosen
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["lr"] for row in rows[:3]] == [chosen[0], "0.004", "0.002"]
    assert any("×2 means that two seeds chose it" in note for note in table.notes)
    page = (place / "report.html").read_text("utf8")
    words = re.sub("<[^>]+>", "", page).replace("\N{NO-BREAK SPACE}", " ")
    assert all(f"lr {text}" in words for text in chosen)
    assert "3 learning rates were tried by every seed for itself" in page
    assert "&#34;seed 2&#34;: 0.004" in page
    ends = next(one for one in limits(summary) if "smallest or largest" in one)
    assert "head: 5 of 5 seeds and standard: 2 of 5 seeds" in ends


def test_curves_are_means_over_seeds(summary: Summary) -> None:
    tuning = summary.cells[0].tuning
    assert [(one.lr, one.chosen) for one in tuning.rates] == [(1e-3, 1), (2e-3, 3), (4e-3, 1)]
    by_seed = [[trial.score or 0 for trial in choice.trials] for choice in tuning.choices]
    for one, scores in zip(tuning.rates, zip(*by_seed, strict=True), strict=True):
        assert one.score is not None
        assert one.score.values == scores
        assert one.score.mean == pytest.approx(fmean(scores))
    best = [one.score for one in tuning.expected_best]
    assert best[0] == pytest.approx(fmean(map(fmean, by_seed)))
    assert best[2] == pytest.approx(fmean(map(max, by_seed)))
    failed = summary.cells[2].tuning
    assert [len(one.score.values) for one in failed.rates if one.score is not None] == [4, 4, 4]
    assert len(failed.expected_best) == 3
    chart = curves.tuning(list(members(summary.cells[:2]).values()), "accuracy")
    assert chart is not None
    rows = next(rows for rows in chart.spec["datasets"].values() if "chosen" in rows[0])
    assert [row["count"] for row in rows] == ["×1", "×3", "×1", "", "", ""]
    assert [row["y"] for row in rows[:3]] == [one.score.mean for one in tuning.rates if one.score is not None]
    assert all(row["low"] < row["y"] < row["high"] for row in rows[:3])
    assert "completed" not in rows[0]["shown"]
    chart = curves.tuning(list(members(summary.cells).values()), "accuracy")
    assert chart is not None
    rows = next(rows for rows in chart.spec["datasets"].values() if "chosen" in rows[0])
    assert rows[-1]["shown"].endswith(", 4 of 5 completed")


def test_a_cell_that_lacks_a_seed_has_no_verdict(summary: Summary) -> None:
    assert summary.cells[2].tuning.unchosen == 1
    assert [pair.why_none for pair in summary.pairs] == [
        None,
        *["for 1 of 5 seeds of the second every learning rate failed"] * 2,
    ]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("diverged", None),
        ("failed", "1 of 15 tuning runs of the second failed: it chose from fewer learning rates"),
        ("out_of_memory", "1 of 15 tuning runs of the second failed: it chose from fewer learning rates"),
    ],
)
def test_a_cell_that_could_choose_from_fewer_rates_has_no_verdict(place: Path, status: str, why: str | None) -> None:
    study = load_study(place)
    first, second, _ = study.cells
    choice = second.choices[0]
    trial = dataclasses.replace(choice.trials[0], status=status, score=None)
    choice = dataclasses.replace(choice, trials=(trial, *choice.trials[1:]))
    second = dataclasses.replace(second, choices=(choice, *second.choices[1:]))
    (one,) = compare_cells(dataclasses.replace(study, cells=(first, second)), draws=100)
    assert one.why_none == why
    assert (one.verdict is None) == (why is not None)


def test_where_the_first_seed_chose_for_all_the_page_says_what_is_not_covered(
    fabricated: Callable[..., Any], cell: Callable[..., Any]
) -> None:
    place = fabricated([cell(STANDARD), cell(HEAD, 0.8)], sizes=(60, 200)).write()
    finish(place)
    page, table = ((place / name).read_text("utf8") for name in ("report.html", "table.md"))
    assert "2 learning rates were tried with the first seed, for all seeds" in page
    assert "take the choice as given" in page
    assert "intervals and verdicts do not cover that choice" in table
    assert Summary.read(place).cells[0].tuning.chosen == {2e-3: 5}
