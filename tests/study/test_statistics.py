"""Intervals, corrections and verdicts: against brute force on small cases, and by what must always hold."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loratory.study.resampling import Replicates, replicate
from loratory.study.statistics import (
    Difference,
    difference,
    expected_best,
    family_interval,
    holm,
    over_seeds,
    seconds_to,
    smallest_shown,
    verdict,
)

LABELS = np.random.default_rng(1).integers(0, 2, 400)


def answers(accuracy: float, *, seeds: int = 5, seed: int = 0, seed_sd: float = 0.01) -> np.ndarray:
    """Logits (S, N, 2) of seeds that are right as often as that."""
    draw = np.random.default_rng(seed)
    share = accuracy + seed_sd * draw.normal(size=(seeds, 1))
    right = draw.random((seeds, len(LABELS))) < share
    predicted = np.where(right, LABELS, 1 - LABELS)
    return np.eye(2, dtype=np.float32)[predicted]


def compared(a: np.ndarray, b: np.ndarray, labels: np.ndarray = LABELS, *, draws: int = 2000) -> Difference:
    return difference(*replicate("accuracy", labels, np.arange(len(labels)), [a, b], draws=draws))


def exact(estimate: float, error: float = 0.01, freedom: float = 20) -> Difference:
    return Difference(np.array(estimate), np.array(error), np.array(freedom))


def test_error_is_that_of_crossed_resampling() -> None:
    """Brute force: draw seeds and examples, stretch the seeds' weights, take the variance of the difference."""
    a, b = answers(0.8, seed_sd=0.04), answers(0.7, seed=1, seed_sd=0.04)
    wrong = ((a.argmax(-1) == LABELS).astype(float) - (b.argmax(-1) == LABELS)).astype(float)  # (S, N)
    draw, (S, N), found = np.random.default_rng(0), wrong.shape, []
    for _ in range(20_000):
        seeds = 1 + (S / (S - 1)) ** 0.5 * (draw.multinomial(S, [1 / S] * S) - 1)
        examples = draw.multinomial(N, [1 / N] * N)
        found.append(seeds @ wrong @ examples / (S * N))
    assert compared(a, b, draws=10_000).error == pytest.approx((np.var(found) + 1 / N**2) ** 0.5, rel=0.03)


def test_difference_turns_with_the_pair() -> None:
    a, b = answers(0.8), answers(0.7, seed=1)
    one, other = compared(a, b), compared(b, a)
    assert one.estimate == -other.estimate
    assert np.allclose(one.interval(), [-end for end in other.interval()[::-1]])
    assert one.p == other.p


def test_order_of_examples_changes_nothing_but_the_draws() -> None:
    a, b, order = answers(0.8), answers(0.7, seed=1), np.random.default_rng(2).permutation(len(LABELS))
    one, other = compared(a, b, draws=10_000), compared(a[:, order], b[:, order], LABELS[order], draws=10_000)
    assert one.estimate == pytest.approx(float(other.estimate))
    assert one.error == pytest.approx(float(other.error), rel=0.03)


def test_order_of_seeds_changes_nothing() -> None:
    a, b = answers(0.8), answers(0.7, seed=1)
    one, other = compared(a, b), compared(a[::-1], b[::-1])
    assert one.error == pytest.approx(float(other.error))


def test_identical_runs_are_equivalent_where_examples_suffice() -> None:
    found = compared(answers(0.8), answers(0.8))
    assert (found.estimate, found.p) == (0, 1)
    assert verdict(found, 1.0, family=1, margin=0.01, higher_is_better=True) == "equivalent"
    few = compared(answers(0.8)[:, :50], answers(0.8)[:, :50], LABELS[:50])
    assert verdict(few, 1.0, family=1, margin=0.01, higher_is_better=True) == "inconclusive"


def test_seeds_alone_give_students_interval() -> None:
    """Where all examples are answered alike within a seed, the difference is that of the seeds' means."""
    a = np.zeros((5, 1))
    b = np.array([[0.1], [0.2], [0.15], [0.3], [0.22]])
    many = [
        Replicates(one[:, 0], np.repeat(one[:, 0][None], 3, axis=0), np.ones(10**6, dtype=np.int64)) for one in (a, b)
    ]
    found = difference(*many)
    expected = stats.ttest_1samp((a - b)[:, 0], 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert np.allclose(found.interval(), expected.confidence_interval(0.95), rtol=1e-3)


@given(st.floats(-0.1, 0.1), st.floats(1e-4, 0.1), st.floats(1, 1e4))
def test_p_agrees_with_the_interval(estimate: float, error: float, freedom: float) -> None:
    found = exact(estimate, error, freedom)
    for confidence in (0.5, 0.95, 0.999):
        low, high = found.interval(confidence)
        if abs(float(found.p) - (1 - confidence)) > 1e-9:
            assert (found.p <= 1 - confidence) == (not low <= 0 <= high)


PS = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(PS, st.integers(0, 5))
def test_holm_is_a_correction(values: list[float], further: int) -> None:
    p = np.array(values)
    adjusted = holm(p, len(p) + further)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (adjusted <= np.minimum(p * (len(p) + further), 1) + 1e-12).all()  # never above Bonferroni's
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()


def test_holm_by_hand() -> None:
    assert holm(np.array([0.04, 0.01, 0.03]), 3) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.04, 0.01]), 3) == pytest.approx([0.08, 0.03])
    assert len(holm(np.array([]), 3)) == 0


@pytest.mark.parametrize(
    ("found", "p", "family", "expected"),
    [
        (exact(0.05), 0.001, 1, "better"),
        (exact(-0.05), 0.001, 1, "worse"),
        (exact(0.05), 0.06, 3, "inconclusive"),  # its own interval leaves 0 out, the family's p does not
        (exact(0.0, 0.004), 1.0, 1, "equivalent"),
        (exact(0.0, 0.004), 1.0, 10, "inconclusive"),  # not inside the margin for all ten at once
        (exact(0.004, 0.001), 0.001, 1, "equivalent"),  # real, and surely smaller than the margin
        (exact(0.009, 0.002), 0.001, 1, "better"),  # real, and perhaps larger
        (exact(0.0, 0.02), 1.0, 1, "inconclusive"),
    ],
)
def test_verdicts(found: Difference, p: float, family: int, expected: str) -> None:
    assert verdict(found, p, family=family, margin=0.01, higher_is_better=True) == expected
    mirrored = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert verdict(found, p, family=family, margin=0.01, higher_is_better=False) == mirrored


def test_family_interval_is_wider() -> None:
    alone, ten = family_interval(exact(0.0), 1), family_interval(exact(0.0), 10)
    assert ten[0] < alone[0] < alone[1] < ten[1]


def test_spread_over_seeds() -> None:
    found = over_seeds([0.8, 0.82, 0.84])
    assert (found.mean, found.sd) == (pytest.approx(0.82), pytest.approx(0.02))
    assert (found.low, found.high) == pytest.approx(
        stats.ttest_1samp([0.8, 0.82, 0.84], 0).confidence_interval(0.95), abs=1e-12
    )
    assert over_seeds([0.8]) == over_seeds([0.8])
    assert (over_seeds([0.8]).mean, over_seeds([0.8]).low, over_seeds([0.8]).sd) == (0.8, None, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.booleans())
def test_expected_best_is_the_mean_over_all_choices(scores: list[float], rising: bool) -> None:
    best = max if rising else min
    for k, found in enumerate(expected_best(scores, higher_is_better=rising), start=1):
        assert found == pytest.approx(np.mean([best(chosen) for chosen in combinations(scores, k)]))


def test_seconds_to_a_score() -> None:
    history = [
        {"train_seconds": 1.0, "validation_accuracy": 0.7, "validation_log_loss": 0.5},
        {"train_seconds": 2.0, "validation_accuracy": 0.8, "validation_log_loss": 0.4},
    ]
    assert seconds_to(history, "accuracy", 0.75, higher_is_better=True) == 2.0
    assert seconds_to(history, "accuracy", 0.7, higher_is_better=True) == 1.0
    assert seconds_to(history, "accuracy", 0.9, higher_is_better=True) is None
    assert seconds_to(history, "log_loss", 0.45, higher_is_better=False) == 2.0
    assert seconds_to([{"train_seconds": 1.0}], "accuracy", 0.5, higher_is_better=True) is None


@pytest.mark.parametrize(("seeds", "family"), [(5, 1), (5, 91), (10, 91)])
def test_the_smallest_difference_that_is_shown_is_just_shown(seeds: int, family: int) -> None:
    """Where seeds are the only chance; the examples' draws all agree."""
    spread = np.linspace(-1, 1, seeds)
    spread *= 1e3 / spread.std(ddof=1)  # so large that 1/N² does not count
    for times, shown in ((0.999, False), (1.001, True)):
        values = spread + 1e3 * times * smallest_shown(seeds, family)
        a = Replicates(values, np.tile(values, (10, 1)), np.ones(10_000, dtype=np.int64))
        b = Replicates(np.zeros(seeds), np.zeros((10, seeds)), np.ones(10_000, dtype=np.int64))
        p = np.array([float(difference(a, b).p)])
        assert (holm(p, family)[0] <= 0.05) == shown
