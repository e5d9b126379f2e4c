"""Studies of sets of labels and of numbers: their own metric, pairs, baselines, table and page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.evaluation.predictions import read
from loratory.study.document import Summary
from loratory.study.pairs import compare_cells
from loratory.study.results import load_study

STUDY = """
name: {kind}
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [5e-3, 2e-2]}}}}
  - {{name: lora, rank: 2, tune: {{lr: [5e-3, 2e-2]}}}}
seeds: [0, 1]
tune_seeds: first
{more}
train: {{epochs: 1, max_length: 32, batch_size: 16, device: cpu, precision: fp32, threads: 1}}
"""


def data(folder: Path, kind: str, texts: list[tuple[str, str]]) -> Path:
    path = folder / ("a.jsonl" if kind == "sets" else "a.csv")
    if kind == "sets":
        sets = ([label, *(["late"] if number % 3 == 0 else [])] for number, (_, label) in enumerate(texts))
        rows = zip((text for text, _ in texts), sets, strict=True)
        path.write_text("".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in rows))
    else:
        with path.open("w", newline="") as file:
            numbers = [(text, 100.5 + (10 if label == "good" else -10)) for text, label in texts]
            csv.writer(file).writerows([("text", "label"), *numbers])
    return path


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_a_study_of_it_has_its_own_metric_table_and_page(
    kind: str, texts: Any, tiny_bert: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    text = STUDY.format(kind=kind, data=data(tmp_path, kind, texts), model=tiny_bert, more="")
    path.write_text(text)
    assert main(["study", "run", str(path), "--output", str(out)]) == 0
    study = Summary.read(out)
    own, other = {
        "sets": (("f1_micro", "f1_macro", "subset_accuracy"), "mcc"),
        "numbers": (("pearson", "spearman", "mse"), "accuracy"),
    }[kind]
    assert study.select == own[0]
    for cell in study.cells:
        assert set(own) <= set(cell.quality["test"])
        assert other not in cell.quality["test"]
    (pair,) = study.pairs
    assert (pair.metric, pair.seeds) == (own[0], 2)
    assert pair.difference is not None
    assert pair.low is None  # of two seeds; but it could be told
    assert compare_cells(load_study(out), draws=50)[0].low is not None
    names = {one.name for one in study.baselines if one.reason is None}
    assert (
        names
        == {
            "sets": {"commonest label set", "TF-IDF + logistic regression"},
            "numbers": {"training mean", "TF-IDF + ridge regression"},
        }[kind]
    )
    assert all(one.value(own[0]) is not None for one in study.baselines if one.reason is None)
    page, table = (out / "report.html").read_text(), (out / "table.md").read_text()
    for said in {"sets": ("Micro-F1", "Labels: head"), "numbers": ("Pearson", "Predicted and true")}[kind]:
        assert said in page
    for said in ("Confusion and classes", "Calibration</h4>", "Accuracy"):
        assert said not in page
    assert {"sets": "Micro-F1 (test)", "numbers": "RMSE (test)"}[kind] in table
    assert ("Where approaches disagree" in page) is (kind == "sets")


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_folds_and_sizes_of_it(kind: str, texts: Any, tiny_bert: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    text = STUDY.format(kind=kind, data=data(tmp_path, kind, texts), model=tiny_bert, more="folds: 2")
    text = text.replace("[0, 1]", "[0]").replace("train: {", "train: {limit: [20, all], ")
    path.write_text(re.sub(r", tune: \{.*?\}", "", text))
    assert main(["study", "run", str(path), "--output", str(out)]) == 0
    study = Summary.read(out)
    metric = {"sets": "f1_micro", "numbers": "pearson"}[kind]
    assert (study.select, study.folds, len(study.cells), len(study.pairs)) == (metric, 2, 4, 2)
    runs = [read(one / "predictions.parquet")["test"] for one in sorted((out / "runs").glob("*"))]
    assert sum(len(one.labels) for one in runs) == len(study.cells) * len(texts)
    assert all(cell.score(metric) is not None for cell in study.cells)
    assert all((pair.metric, pair.examples, pair.low) == (metric, len(texts), None) for pair in study.pairs)
    assert all(pair.low is not None for pair in compare_cells(load_study(out), draws=50))  # of two folds, but for that
    dumb = [one for one in study.baselines if one.reason is None]
    assert len(dumb) == 4
    assert all(one.value(metric) is not None for one in dumb)
    page = (out / "report.html").read_text()
    assert "Accuracy" not in page


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("numbers", "select: accuracy", "numbers: select accuracy: no metric of a regression; give one of: pearson"),
        ("sets", "select: mse", "select mse: no metric of multi-label classification"),
        ("numbers", "select: rmse", "margin: say which difference in RMSE counts as none; it is in the target's unit"),
    ],
)
def test_metrics_that_do_not_fit_are_refused_before_anything_runs(
    kind: str, more: str, said: str, texts: Any, tiny_bert: Path, tmp_path: Path, capsys: Any
) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(STUDY.format(kind=kind, data=data(tmp_path, kind, texts), model=tiny_bert, more=more))
    assert main(["study", "run", str(path), "--output", str(out)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert not (out / "runs").exists()


def test_data_sets_of_two_problems_are_no_study(texts: Any, tiny_bert: Path, tmp_path: Path, capsys: Any) -> None:
    both = ", ".join(str(data(tmp_path, kind, texts)) for kind in ("sets", "numbers"))
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(kind="both", data=both, model=tiny_bert, more=""))
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "one metric compares a study" in capsys.readouterr().err
