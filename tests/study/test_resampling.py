"""Metrics of resampled examples are the metrics that are declared, computed on the examples drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.evaluation.metrics import metrics_of, score
from loratory.problems import SINGLE
from loratory.study.resampling import SUMS, replicate, unit_weights


def runs(seeds: int, examples: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, examples)
    logits = draw.normal(size=(seeds, examples, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, logits.astype(np.float32)


def value(metric: str, labels: np.ndarray, logits: np.ndarray) -> float | None:
    return score(labels, logits, None, tuple(map(str, range(logits.shape[-1])))).value(metric)


def test_every_metric_can_be_resampled() -> None:
    assert set(SUMS) == set(metrics_of(SINGLE))


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
    hits = SUMS["f1_macro"].per_run(labels, logits)[..., :3].sum(axis=-1)
    assert np.array_equal(hits, SUMS["accuracy"].per_run(labels, logits)[..., 0])


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
    monkeypatch.setattr("loratory.study.resampling._AT_ONCE", 25)
    pieces = list(unit_weights(10, 7, 0))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]
