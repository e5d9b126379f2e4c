"""Cross-validation: every fold a test once, chosen for by itself, judged with what folds share."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from loratory.cli import main
from loratory.errors import SettingsError
from loratory.evaluation import predictions
from loratory.evaluation.metrics import quality_over_folds, score
from loratory.evaluation.predictions import Predictions
from loratory.finish import finish
from loratory.study.document import Summary
from loratory.study.folds import pooled
from loratory.study.plan import differences_said
from loratory.study.reading import read_study
from loratory.study.resampling import Replicates, replicate, unit_weights
from loratory.study.results import load_study
from loratory.study.statistics import difference, over_folds, spread_over_folds

FILE = """
name: folded
data: [{data}]
models: [{model}]
methods:
  - {{name: bitfit, tune: {{lr: [1e-3, 1e-2]}}}}
  - {{name: head, tune: {{lr: [1e-3, 1e-2]}}}}
seeds: [4]
folds: 3
train: {{epochs: 1, max_length: 16, batch_size: 8, device: cpu, precision: fp32, threads: 1}}
keep: none
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]], tiny_bert: Path) -> Path:
    """A study by folds of 40 texts."""
    place = tmp_path_factory.mktemp("folds")
    with (place / "few.csv").open("w", encoding="utf8", newline="") as opened:
        csv.writer(opened).writerows([("text", "label"), *texts[:40]])
    (place / "folded.yaml").write_text(FILE.format(data=place / "few.csv", model=tiny_bert), encoding="utf8")
    return place / "folded.yaml"


@pytest.fixture(scope="module")
def done(file: Path) -> Path:
    """Its directory, run."""
    assert main(["study", "run", str(file), "--output", str(file.parent / "out")]) == 0
    return file.parent / "out"


def test_each_fold_has_trials_of_its_own_and_each_seed_a_final_run_of_it(done: Path, plan: Any, records: Any) -> None:
    found, document = records(done), plan(done)
    assert (document["folds"], len(found)) == (3, 2 * 3 * (2 + 1))
    for cell in document["cells"]:
        assert [choice["fold"] for choice in cell["choices"]] == [1, 2, 3]
        for choice in cell["choices"]:
            names = [one["run"] for stage in ("trials", "finals") for one in choice[stage]]
            data = [found[name].spec["data"] for name in names]
            assert {(one["folds"], one["fold"]) for one in data} == {(3, choice["fold"])}
            assert [set(found[name].quality) for name in names][:2] == [{"validation"}] * 2  # none sees its test


def test_the_tests_of_a_seed_cover_every_example_once(done: Path) -> None:
    study = load_study(done)
    for cell in study.cells:
        ((seed, finals),) = cell.by_seed.items()
        rows = [predictions.read(final.directory / "predictions.parquet")["test"].rows for final in finals]
        assert (seed, sorted(np.concatenate(rows).tolist())) == (4, list(range(40)))


def test_what_exists_is_not_run_again(file: Path, done: Path, capsys: Any) -> None:
    assert main(["study", "run", str(file), "--output", str(done)]) == 0
    assert "6 final runs, 18 exist" in capsys.readouterr().out


def test_the_summary_is_of_all_examples_together(done: Path) -> None:
    summary = Summary.read(done)
    for runs, cell in zip(load_study(done).cells, summary.cells, strict=True):
        (finals,) = runs.by_seed.values()
        parts = [predictions.read(final.directory / "predictions.parquet")["test"] for final in finals]
        labels, logits = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "logits"))
        spread = cell.quality["test"]["f1_macro"]
        assert spread.mean == pytest.approx(score(labels, logits, None, ("negative", "positive")).f1_macro)
        folds = [final.record["quality"]["test"]["f1_macro"] for final in finals]
        assert spread.values == pytest.approx(folds)
        sizes = [final.record["data"]["sizes"] for final in finals]
        ratio = sum(one["test"] for one in sizes) / sum(one["train"] for one in sizes)
        reach = stats.t.isf(0.025, 2) * np.sqrt((1 / 3 + ratio) * np.var(folds, ddof=1))
        assert (spread.low, spread.high) == pytest.approx((spread.mean - reach, spread.mean + reach))
        assert (len(cell.seeds), len(cell.runs), len(cell.cost["total_seconds"].values)) == (1, 3, 3)
    (pair,) = summary.pairs
    assert (pair.folds, pair.seeds, pair.examples, pair.verdict) == (3, 1, 40, None)
    assert pair.why_none == "3 folds; a verdict needs 5"
    baselines = {one.name: one for one in summary.baselines}
    assert baselines["majority class"].accuracy == pytest.approx(0.5, abs=0.1)
    assert [one["fold"] for one in summary.data] == ["1 of 3", "2 of 3", "3 of 3"]


def test_table_and_page_say_that_there_are_folds(done: Path) -> None:
    page = (done / "report.html").read_text("utf8")
    assert "means over 3 folds and 1 seed with 95% intervals over folds" in (done / "table.md").read_text("utf8")
    for words in ("Nadeau", "Bengio &amp; Grandvalet 2004", "Only 3 folds: below 5 folds no verdict", "fold 2 of 3"):
        assert words in page
    status = main(["study", "status", str(done)])
    assert status == 0


def test_a_seed_without_some_folds_run_has_no_score(done: Path, tmp_path: Path, plan: Any) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    (gone,) = (one["run"] for one in plan(copy)["cells"][0]["choices"][1]["finals"])
    shutil.rmtree(copy / "runs" / gone)
    finish(copy)
    first, second = Summary.read(copy).cells
    assert (first.seeds, first.runs, dict(first.quality), first.missing) == ((), (), {}, 1)
    assert len(second.runs) == 3
    assert Summary.read(copy).pairs == ()


def test_folds_are_in_order_of_rows_and_units_are_told_apart() -> None:
    def part(rows: list[int], units: list[int]) -> Predictions:
        logits = np.array([[row, -row] for row in rows], dtype=np.float32)
        return Predictions(np.array(rows) % 2, logits, np.array(rows), np.array(units))

    whole = pooled([part([5, 1, 3], [0, 1, 0]), part([0, 4, 2], [1, 0, 0])], [1, 2])
    assert whole.folds is not None
    assert whole.test.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert whole.folds.tolist() == [2, 1, 2, 1, 2, 1]
    assert whole.test.logits[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    units = whole.test.units.tolist()
    assert units[5] == units[3] != units[1]
    assert units[4] == units[2] != units[0]
    assert len(set(units)) == 4
    alone = part([5, 1], [0, 1])
    assert pooled([alone], [None]).test is alone


def test_replicates_know_each_folds_own_metric() -> None:
    draw = np.random.default_rng(0)
    labels, folds, units = draw.integers(0, 2, 60), np.arange(60) % 5, np.arange(60)
    logits = draw.normal(size=(3, 60, 2)).astype(np.float32)
    for metric in ("accuracy", "f1_macro", "log_loss"):
        (found,) = replicate(metric, labels, units, [logits], folds=folds, draws=20)
        assert found.folds is not None
        expected = [
            [score(labels[folds == k], one[folds == k], None, ("a", "b")).value(metric) for one in logits]
            for k in range(5)
        ]
        assert found.folds == pytest.approx(np.array(expected), abs=1e-6)
        (plain,) = replicate(metric, labels, units, [logits], draws=20)
        assert plain.folds is None
        assert np.array_equal(plain.draws, found.draws)  # folds draw nothing


@pytest.mark.parametrize("metric", ["pearson", "spearman", "rmse"])
def test_correlations_are_within_a_fold_errors_over_all_examples(metric: str) -> None:
    """Every fold's model has a level and a scale of its own, which is no fault of its correlation."""
    draw = np.random.default_rng(0)
    truth, folds, units = draw.normal(size=60) + 3, np.arange(60) % 5, np.arange(60) // 10 * 5 + np.arange(60) % 5
    outputs = (truth * (folds + 1) + 50 * folds + draw.normal(size=(2, 60)))[..., None].astype(np.float32)
    (found,) = replicate(metric, truth, units, [outputs], folds=folds, draws=30, seed=7)
    (weights,) = unit_weights(len(np.unique(units)), 30, 7)

    def value(one: Any, rows: Any) -> float:
        return cast(float, score(truth[rows], one[rows], None, ("y",)).value(metric))

    of_folds = np.array([[value(one, np.flatnonzero(folds == k)) for one in outputs] for k in range(5)])
    assert found.folds == pytest.approx(of_folds, rel=1e-4)
    everything = np.arange(60)
    whole = [value(one, everything) for one in outputs]
    assert found.values == pytest.approx(whole if metric == "rmse" else of_folds.mean(axis=0), rel=1e-4)
    for drawn, got in zip(weights, found.draws, strict=True):
        rows = np.repeat(everything, drawn[np.unique(units, return_inverse=True)[1]].astype(int))
        each = [[value(one, rows[folds[rows] == k]) for k in np.unique(folds[rows])] for one in outputs]
        expected = [value(one, rows) for one in outputs] if metric == "rmse" else np.mean(each, axis=1)
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_mean_that_varies_over_folds_is_no_negative_correlation() -> None:
    """The mean of each fold's training targets is low where its test's are high: held together they would correlate."""
    truth, folds = np.random.default_rng(0).normal(size=40), np.arange(40) % 5
    constant = np.array([truth[folds != k].mean() for k in range(5)])[folds]
    names = ("y",)
    whole = score(truth, constant[:, None], None, names)
    parts = [score(truth[folds == k], constant[folds == k][:, None], None, names) for k in range(5)]
    assert cast(float, whole.value("pearson")) < -0.1
    found = quality_over_folds(whole, parts)
    assert (found.value("pearson"), found.value("spearman")) == (0.0, 0.0)
    assert found.value("mse") == whole.value("mse")


def test_what_varies_over_folds_is_added() -> None:
    draw = np.random.default_rng(1)
    values, draws = draw.normal(size=(2, 2)), draw.normal(size=(2, 500, 2)) * 0.01
    sizes = np.ones(200, dtype=np.int64)

    def cell(number: int, spread: float) -> Replicates:
        folds = spread * np.array([-2.0, -1, 0, 1, 2])[:, None] * (1, 1) * number
        return Replicates(values[number], draws[number], sizes, folds)

    still, moved = (difference(cell(1, one), cell(0, one), test_to_train=0.25) for one in (0.0, 1.0))
    plain = difference(Replicates(values[1], draws[1], sizes), Replicates(values[0], draws[0], sizes))
    assert still.error == pytest.approx(plain.error)
    assert moved.estimate == plain.estimate
    assert moved.freedom == still.freedom == 4
    assert moved.error == pytest.approx(np.sqrt(plain.error**2 + (1 / 5 + 0.25) * 2.5))


def test_the_interval_over_folds_is_nadeau_and_bengios() -> None:
    folds = np.array([0.8, 0.7, 0.9, 0.85, 0.75])
    found = over_folds(folds, np.array(0.8), 0.25)
    assert float(found.error) == pytest.approx(np.sqrt((0.2 + 0.25) * folds.var(ddof=1)))
    spread = spread_over_folds(folds.tolist(), 0.8, 0.25)
    assert (spread.low, spread.high) == pytest.approx(tuple(map(float, found.interval())))
    assert spread_over_folds([0.8, 0.7], 0.75, 1.0).low is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("folds: 3", "folds: 1", "line 9: folds 1: input should be greater than or equal to 2"),
        ("folds: 3", "folds: 500", "line 9: folds 500: input should be less than or equal to 100"),
        ("epochs: 1", "epochs: 1, folds: 3", "'folds' does not belong into train: it stands beside train"),
        ("epochs: 1", "epochs: 1, fold: 3", "'fold' does not belong into train: with folds beside train"),
        ("epochs: 1", "epochs: 1, test_fraction: 0.3", "test_fraction beside folds: every fold is the test once"),
        ("epochs: 1", "epochs: 1, test: t.csv", "test beside folds: every fold is the test once"),
    ],
)
def test_folds_that_cannot_be_meant_are_one_line(file: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "folded.yaml"
    path.write_text(file.read_text("utf8").replace(old, new), encoding="utf8")
    with pytest.raises(SettingsError) as error:
        read_study(path)
    assert said in str(error.value)


def test_the_plan_says_what_folds_can_show(file: Path) -> None:
    spec, _ = read_study(file)
    assert spec.runs == 2 * 3 * (2 + 1)
    assert differences_said(spec) == ["Differences: 1 pair, and 3 folds: no verdict below 5 folds"]
    assert "with 4 degrees of freedom of the folds" in differences_said(spec.model_copy(update={"folds": 5}))[0]


def test_more_folds_than_the_smallest_class_has_is_an_error_of_the_data(
    file: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["study", "run", str(file), "--set", "folds=30", "--output", str(tmp_path / "out")]
    assert main(command) == 3
    error = capsys.readouterr().err
    assert "too few for 30 folds" in error
    assert error.count("\n") == 1
