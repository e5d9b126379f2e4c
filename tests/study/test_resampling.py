"""Metrics of resampled examples are the metrics that are declared, computed on the examples drawn."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.evaluation.metrics import METRICS, metrics_of, score
from loratory.evaluation.thresholds import decided
from loratory.problems import MULTI, REGRESSION, SINGLE
from loratory.spec import Select
from loratory.study import sums
from loratory.study.pairs import _of_seeds
from loratory.study.resampling import Replicates, replicate, unit_weights
from loratory.study.statistics import difference
from loratory.study.sums import POWERS, SUMS, Outputs


def runs(seeds: int, examples: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, examples)
    logits = draw.normal(size=(seeds, examples, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, logits.astype(np.float32)


def value(metric: str, labels: np.ndarray, logits: np.ndarray) -> float | None:
    return score(labels, logits, None, tuple(map(str, range(logits.shape[-1])))).value(metric)


def test_every_metric_can_be_resampled() -> None:
    assert set(SUMS) == {*get_args(Select), "ece"}


@pytest.mark.parametrize("metric", metrics_of(SINGLE))
@pytest.mark.parametrize("classes", [2, 3])
def test_values_and_draws_are_those_of_the_metric(metric: str, classes: int) -> None:
    labels, logits = runs(3, 40, classes)
    (found,) = replicate(metric, labels, np.arange(40), [logits], draws=7, seed=5)
    assert found.values.shape == (3,)
    assert found.draws.shape == (7, 3)
    assert np.allclose(found.values, [value(metric, labels, one) for one in logits], atol=1e-6)
    for weights, drawn in zip(np.concatenate(list(unit_weights(40, 7, 5))), found.draws, strict=True):
        chosen = np.repeat(np.arange(40), weights.astype(int))
        assert np.allclose(drawn, [value(metric, labels[chosen], one[chosen]) for one in logits], atol=1e-6)


@pytest.mark.parametrize("metric", metrics_of(SINGLE))
def test_examples_of_a_unit_are_drawn_together(metric: str) -> None:
    labels, logits = runs(2, 40, 3)
    units = np.random.default_rng(1).permutation(np.arange(40) % 9) * 10
    (found,) = replicate(metric, labels, units, [logits], draws=7, seed=5)
    assert (len(found.sizes), found.examples) == (9, 40)
    assert np.allclose(found.values, [value(metric, labels, one) for one in logits], atol=1e-6)
    for weights, drawn in zip(np.concatenate(list(unit_weights(9, 7, 5))), found.draws, strict=True):
        chosen = np.concatenate(
            [np.flatnonzero(units == 10 * unit) for unit in np.repeat(np.arange(9), weights.astype(int))]
        )
        assert np.allclose(drawn, [value(metric, labels[chosen], one[chosen]) for one in logits], atol=1e-6)


def test_copies_of_the_examples_add_no_certainty() -> None:
    labels, logits = runs(3, 60, 2)
    (once,) = replicate("accuracy", labels, np.arange(60), [logits], draws=50)
    (copied,) = replicate(
        "accuracy", np.tile(labels, 5), np.tile(np.arange(60), 5), [np.tile(logits, (1, 5, 1))], draws=50
    )
    assert np.allclose(once.draws, copied.draws)


@pytest.mark.parametrize("metric", ["f1_macro", "f1_weighted", "mcc"])
@pytest.mark.parametrize("answer", [0, 2])
def test_classes_that_are_absent_or_never_predicted(metric: str, answer: int) -> None:
    labels = np.array([0, 0, 0, 1])
    logits = np.eye(3, dtype=np.float32)[None, [answer] * 4]
    (found,) = replicate(metric, labels, np.arange(4), [logits], draws=50)
    assert np.isfinite(found.draws).all()
    assert found.values[0] == pytest.approx(value(metric, labels, logits[0]))


def test_accuracy_agrees_with_the_way_through_classes() -> None:
    labels, logits = runs(4, 200, 3)
    outputs = Outputs(logits, logits.argmax(axis=-1))
    hits = SUMS["f1_macro"].per_run(labels, outputs)[..., :3].sum(axis=-1)
    assert np.array_equal(hits, SUMS["accuracy"].per_run(labels, outputs)[..., 0])


def test_all_cells_share_the_draws_whatever_their_seeds() -> None:
    labels, logits = runs(5, 60, 2)
    together = replicate("accuracy", labels, np.arange(60), [logits, logits[:2]], draws=20)
    (alone,) = replicate("accuracy", labels, np.arange(60), [logits], draws=20)
    assert np.array_equal(together[0].draws, alone.draws)
    assert np.array_equal(together[1].draws, alone.draws[:, :2])


@given(st.integers(1, 50), st.integers(1, 30), st.integers(0, 9))
def test_a_draw_has_as_many_units_as_there_are(units: int, draws: int, seed: int) -> None:
    weights = np.concatenate(list(unit_weights(units, draws, seed)))
    assert weights.shape == (draws, units)
    assert (weights.sum(axis=1) == units).all()
    assert (weights >= 0).all()


def test_draws_in_pieces_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.study.sums.AT_ONCE", 25)
    pieces = list(unit_weights(10, 7, 0))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]


@pytest.mark.parametrize("metric", [name for name in SUMS if MULTI in METRICS[name].problems])
def test_sets_of_labels_are_resampled_as_they_were_predicted(metric: str) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (40, 3))
    logits = (draw.normal(size=(2, 40, 3)) + labels).astype(np.float32)
    cuts = np.array([0.3, 0.5, 0.8])
    chosen, units = decided(logits, cuts), np.arange(40) % 13
    (found,) = replicate(metric, labels, units, [logits], chosen=[chosen], draws=5, seed=1)

    def value(rows: np.ndarray, run: int) -> float | None:
        return score(labels[rows], logits[run, rows], chosen[run, rows], ("a", "b", "c")).value(metric)

    assert np.allclose(found.values, [value(np.arange(40), run) for run in range(2)], atol=1e-6)
    for weights, drawn in zip(np.concatenate(list(unit_weights(13, 5, 1))), found.draws, strict=True):
        rows = np.concatenate([np.flatnonzero(units == one) for one in np.repeat(np.arange(13), weights.astype(int))])
        assert np.allclose(drawn, [value(rows, run) for run in range(2)], atol=1e-6)


@pytest.mark.parametrize("metric", [name for name in SUMS if REGRESSION in METRICS[name].problems])
def test_numbers_far_from_zero_are_resampled_with_their_own_ranks(metric: str) -> None:
    draw = np.random.default_rng(0)
    targets = 1000 + draw.integers(0, 9, 40) / 4  # with ties
    logits = (targets + draw.normal(size=(2, 40)).round(1)).astype(np.float32)[..., None]
    units = np.arange(40) % 13
    (found,) = replicate(metric, targets, units, [logits], draws=5, seed=1)
    assert np.allclose(found.values, [value(metric, targets, one) for one in logits], atol=1e-4)
    for weights, drawn in zip(np.concatenate(list(unit_weights(13, 5, 1))), found.draws, strict=True):
        rows = np.concatenate([np.flatnonzero(units == one) for one in np.repeat(np.arange(13), weights.astype(int))])
        assert np.allclose(drawn, [value(metric, targets[rows], one[rows]) for one in logits], atol=1e-4)


def test_predictions_that_do_not_vary_have_no_correlation() -> None:
    for metric in ("pearson", "spearman"):
        (found,) = replicate(metric, np.arange(6.0), np.arange(6), [np.ones((1, 6, 1), np.float32)], draws=5)
        assert not found.draws.any()


@pytest.mark.parametrize("metric", ["rmse", "mae", "mse", "pearson", "spearman", "r2"])
@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_the_target_has_no_say_in_a_verdict(metric: str, unit: float) -> None:
    random = np.random.default_rng(0)
    truth = random.normal(3.0, 1.0, 60)
    runs = [(truth + random.normal(0, sd, (4, 60)))[..., None] for sd in (0.2, 0.6)]
    found = []
    for times in (1.0, unit):
        a, b = replicate(metric, truth * times, np.arange(60), [run * times for run in runs], draws=300)
        found.append(difference(a, b))
    power = POWERS.get(metric, 0)
    assert found[1].estimate == pytest.approx(found[0].estimate * unit**power, rel=1e-5)
    assert float(found[1].p) == pytest.approx(float(found[0].p), rel=1e-4)


def test_ranks_in_pieces_are_those_of_all_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=50)
    run = (truth + random.normal(size=(3, 50)))[..., None]
    (whole,) = replicate("spearman", truth, np.arange(50) // 5, [run], draws=40)
    monkeypatch.setattr(sums, "AT_ONCE", 1000)
    (pieces,) = replicate("spearman", truth, np.arange(50) // 5, [run], draws=40)
    np.testing.assert_array_equal(pieces.values, whole.values)
    assert pieces.draws.shape == whole.draws.shape


def test_what_is_compared_keeps_what_one_example_adds() -> None:
    measured = Replicates(np.zeros(3), np.zeros((5, 3)), np.ones(4, np.int64), None, step=0.25)
    some = _of_seeds(measured, [0, 2])
    assert (some.step, some.values.shape, some.draws.shape) == (0.25, (2,), (5, 2))
