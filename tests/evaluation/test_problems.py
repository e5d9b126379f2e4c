"""Sets of labels and numbers: their metrics are scikit-learn's and SciPy's, thresholds come from validation alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn import metrics as reference

from loratory.errors import StorageError
from loratory.evaluation import predictions
from loratory.evaluation.metrics import LEADING, METRICS, metrics_of, score
from loratory.evaluation.predictions import Predictions
from loratory.evaluation.quality import LabelsQuality, NumberQuality, read_quality
from loratory.evaluation.thresholds import OWN_FROM, best_threshold, chosen_thresholds, decided, sigmoid
from loratory.problems import MULTI, REGRESSION, problem_of

NAMES = ("a", "b", "c")


def sets(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = (draw.random((n, 3)) < [0.5, 0.2, 0.1]).astype(np.int64)
    return labels, (draw.normal(size=(n, 3)) + 2 * labels - 1.5).astype(np.float32)


def numbers(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.normal(40.0, 3.0, n)
    return targets, (targets + draw.normal(0.0, 2.0, n)).astype(np.float32)[:, None]


def test_sets_of_labels_agree_with_scikit_learn() -> None:
    labels, logits = sets()
    cuts = np.array([0.5, 0.3, 0.7])
    quality = score(labels, logits, None, NAMES, thresholds=cuts)
    assert isinstance(quality, LabelsQuality)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    said = (probabilities >= cuts).astype(int)
    for average in ("micro", "macro", "weighted"):
        assert quality.value(f"f1_{average}") == pytest.approx(reference.f1_score(labels, said, average=average))
    assert quality.value("subset_accuracy") == reference.accuracy_score(labels, said)
    assert quality.value("hamming_loss") == reference.hamming_loss(labels, said)
    assert quality.value("average_precision") == pytest.approx(
        reference.average_precision_score(labels, probabilities, average="macro")
    )
    loss = np.mean([reference.log_loss(truth, p) for truth, p in zip(labels.T, probabilities.T, strict=True)])
    assert quality.value("binary_log_loss") == pytest.approx(loss, abs=1e-12)
    assert quality.value("accuracy") is None  # it belongs to another problem
    assert quality.per_label["b"].f1 == pytest.approx(reference.f1_score(labels[:, 1], said[:, 1]))


def test_numbers_agree_with_scipy_and_scikit_learn() -> None:
    targets, logits = numbers()
    quality = score(targets, logits, None, ("price",))
    assert isinstance(quality, NumberQuality)
    said = logits[:, 0].astype(np.float64)
    assert quality.value("pearson") == pytest.approx(stats.pearsonr(targets, said).statistic)
    assert quality.value("spearman") == pytest.approx(stats.spearmanr(targets, said).statistic)
    assert quality.value("mse") == reference.mean_squared_error(targets, said)
    assert quality.value("rmse") == pytest.approx(math.sqrt(reference.mean_squared_error(targets, said)))
    assert quality.value("mae") == reference.mean_absolute_error(targets, said)
    assert quality.value("r2") == reference.r2_score(targets, said)
    assert quality.target["mean"] == pytest.approx(targets.mean())


def test_what_does_not_vary_has_no_correlation_and_warns_nobody() -> None:
    constant = score(np.array([1.0, 2.0, 3.0]), np.full((3, 1), 2.0), None, ("y",))
    assert (constant.value("pearson"), constant.value("spearman"), constant.value("r2")) == (0.0, 0.0, 0.0)
    same = score(np.full(3, 1.5), np.array([[1.0], [2.0], [3.0]]), None, ("y",))
    assert (same.value("pearson"), same.value("r2")) == (0.0, 0.0)


def test_errors_on_another_scale_are_none() -> None:
    quality = score(*numbers(), None, ("y",), same_scale=False)
    assert quality.value("rmse") is None
    assert quality.value("spearman") is not None


def test_the_threshold_is_the_best_there_is() -> None:
    labels, logits = sets(n=80)
    probabilities = sigmoid(logits)
    for truth, found in zip(labels.T, probabilities.T, strict=True):
        every = [reference.f1_score(truth, found >= cut, zero_division=0) for cut in np.unique(found)]
        assert reference.f1_score(truth, found >= best_threshold(truth, found)) == pytest.approx(max(every))
    assert best_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.8])) == pytest.approx(0.45)
    assert best_threshold(np.zeros(3, np.int64), np.array([0.1, 0.2, 0.7])) == 0.5


def test_a_rare_label_takes_the_threshold_of_all() -> None:
    labels, logits = sets()
    labels[:, 2] = 0
    labels[: OWN_FROM - 1, 2] = 1
    found = chosen_thresholds(labels, logits)
    assert found[2] == best_threshold(labels.ravel(), sigmoid(logits).ravel())
    assert found[0] == best_threshold(labels[:, 0], sigmoid(logits[:, 0]))


@pytest.mark.parametrize("made", [sets, numbers])
def test_records_survive_json(made) -> None:
    labels, logits = made()
    quality = score(labels, logits, None, NAMES if labels.ndim == 2 else ("y",))
    record = json.loads(json.dumps(quality.record(), sort_keys=True, allow_nan=False))
    assert read_quality(record) == quality
    assert set(metrics_of(problem_of(labels))) <= set(record)
    with pytest.raises(StorageError, match="the record's"):
        read_quality({**record, "examples": "many"})


def test_every_problem_has_its_leading_metrics() -> None:
    for problem, names in LEADING.items():
        assert set(names) <= set(metrics_of(problem))
    assert {problem for metric in METRICS.values() for problem in metric.problems} == set(LEADING)


@pytest.mark.parametrize("made", [sets, numbers])
def test_predictions_come_back(made, tmp_path: Path) -> None:
    labels, logits = made(n=40)
    chosen = decided(logits, np.full(3, 0.4)) if labels.ndim == 2 else None
    given = Predictions(labels, logits, np.arange(40)[::-1], np.arange(40) // 2, chosen)
    predictions.write(tmp_path / "p.parquet", {"validation": given, "test": given})
    found = predictions.read(tmp_path / "p.parquet")["test"]
    for name in ("labels", "logits", "rows", "units", "predictions"):
        assert np.array_equal(getattr(found, name), getattr(given, name))
    assert found.problem == (MULTI if labels.ndim == 2 else REGRESSION)
    first = pq.read_table(tmp_path / "p.parquet").column("label")[0].as_py()
    assert first == (np.flatnonzero(labels[0]).tolist() if labels.ndim == 2 else labels[0])


def test_columns_of_different_problems_are_refused(tmp_path: Path) -> None:
    labels, logits = numbers(n=5)
    path = tmp_path / "p.parquet"
    predictions.write(path, {"test": Predictions(labels, logits, np.arange(5), np.arange(5))})
    table = pq.read_table(path)
    pq.write_table(table.set_column(4, "label", table.column("row")), path)
    with pytest.raises(StorageError, match="different problems"):
        predictions.read(path)
