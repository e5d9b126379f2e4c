"""What may be concluded: intervals, differences, Holm's correction, verdicts, expected best scores.

A difference between two cells has two sources of chance: which seeds were run, and which examples the test split
holds; examples that are not independent (equal texts, a document's sentences) are one unit. Both are resampled, crossed
(Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1:386-411): in a draw every seed sees the same
examples, and both cells see the same seeds and examples. With few seeds that alone is too narrow in two ways, and both
are mended:

- n resampled seeds vary by (n-1)/n of what they should; their deviations are stretched by √(n/(n-1)) (Rao & Wu 1988,
  "Resampling inference with complex survey data", JASA 83:231-241), and so are those of the units. The mean over seeds
  is linear, so its variance over all draws of seeds is known exactly, s²/n, and only units need to be drawn.
- Five seeds say little about their own variance, so the interval is Student's t with Satterthwaite's degrees of
  freedom, between the seeds' n-1 and the units' U-1, by the share that each has in the variance. Of units of unlike
  sizes U is the effective number.

Of K folds there is a third source, the training sets, most of which the folds share: see :func:`over_folds`.

`benchmarks/power.py` measures how often this claims a difference that is not there, and finds one that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
from scipy import stats

from loratory.study.measured import Spread
from loratory.study.parts import Pair, Verdict
from loratory.study.resampling import Replicates
from loratory.study.sums import Array

CONFIDENCE = 0.95
MIN_FOR_INTERVAL = 3
"""Seeds, or folds, below which neither a mean nor a difference has an interval or a p-value: Student's t of two reaches
9 standard deviations to each side."""

MIN_SEEDS = 5
"""Common seeds below which two cells get no verdict."""

MIN_FOLDS = 5
"""Folds below which two cells get no verdict, whatever the number of seeds."""

MIN_UNITS = 10
"""Effective units among the test examples below which two cells get no verdict."""


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference of two cells, with its error: arrays of one shape, () for one pair."""

    estimate: Array
    error: Array
    """Standard error, over seeds and examples."""
    freedom: Array
    """Degrees of freedom of Student's t."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
        """Low and high end of the interval that holds the true difference with this confidence."""
        reach = stats.t.isf((1 - confidence) / 2, self.freedom) * self.error
        return self.estimate - reach, self.estimate + reach

    @property
    def p(self) -> Array:
        """Two-sided p-value of no difference: at most 1 - confidence just where the interval leaves out 0."""
        p: Array = 2 * stats.t.sf(np.abs(self.estimate) / self.error, self.freedom)
        return p


def difference(a: Replicates, b: Replicates, *, test_to_train: float = 0.0) -> Difference:
    """Mean over S >= 2 common seeds of `a` minus `b`; seeds on the last axis, further axes as they are. Of folds one
    seed is enough, and the variance over folds (:func:`over_folds`) is added. The tested examples are then counted
    twice, on purpose: it leaves room for what the folds' training sets share, which cannot be estimated.

    Args:
        test_to_train: of folds: examples that a model is tested on over those it is trained on.

    (step/N)² is added to the variance, as if one example more had been answered differently (by a whole, or of numbers
    by a standard deviation of the truth): agreement on a few examples is not agreement on all. Agresti & Min (2005,
    Statistics in Medicine 24:729-740) do so for paired proportions.
    """
    S, N, U = a.values.shape[-1], a.examples, a.effective_units
    each = a.draws - b.draws  # (draws, ..., S)
    from_seeds = each.var(axis=-1, ddof=1).mean(axis=0) / S if S > 1 else np.zeros(each.shape[1:-1])
    from_examples = each.mean(axis=-1).var(axis=0, ddof=1) * U / max(U - 1, 1.0) + (a.step / N) ** 2
    variance = from_seeds + from_examples
    freedom = variance**2 / (from_seeds**2 / max(S - 1, 1) + from_examples**2 / max(U - 1, 1.0))
    crossed = Difference((a.values - b.values).mean(axis=-1), np.sqrt(variance), freedom)
    if a.folds is None or b.folds is None:
        return crossed
    folds = over_folds((a.folds - b.folds).mean(axis=-1), crossed.estimate, test_to_train)
    return Difference(crossed.estimate, np.sqrt(variance + folds.error**2), folds.freedom)


def over_folds(folds: Array, mean: Array, test_to_train: float) -> Difference:
    """A mean of K folds, from what each of them gives (K, ...): Student's t with K - 1 degrees of freedom and the
    variance (1/K + n_test/n_train) s², for folds share most of their training examples, so that s²/K is too small
    (Nadeau & Bengio 2003, "Inference for the generalization error", Machine Learning 52:239-281; Bouckaert & Frank
    2004, PAKDD, LNCS 3056:3-12). It takes folds to correlate by n_test/(n_test + n_train). No estimate from folds is
    unbiased for every learner (Bengio & Grandvalet 2004, JMLR 5:1089-1105): `benchmarks/power.py --folds` says how far
    it holds.

    Args:
        mean: of all examples together.
    """
    K = len(folds)
    variance = (1 / K + test_to_train) * folds.var(axis=0, ddof=1)
    return Difference(mean, np.sqrt(variance), np.full(np.shape(mean), K - 1.0))


def told(pair: Pair) -> Pair:
    """The pair as it is published: without interval and p-value where it has too few seeds or folds in common."""
    if (pair.seeds if pair.folds is None else pair.folds) >= MIN_FOR_INTERVAL:
        return pair
    return replace(pair, low=None, high=None, family_low=None, family_high=None, p=None, p_holm=None)


def spread_over_folds(values: Sequence[float], mean: float, test_to_train: float) -> Spread:
    """A metric of K folds, whose intervals are those of :func:`over_folds`; none below MIN_FOR_INTERVAL folds.

    Args:
        mean: of all examples together.
    """
    sd = float(np.std(values, ddof=1))
    if len(values) < MIN_FOR_INTERVAL:
        return Spread(mean, sd, None, None, tuple(values))
    low, high = over_folds(np.array(values), np.array(mean), test_to_train).interval()
    return Spread(mean, sd, float(low), float(high), tuple(values))


def over_seeds(values: Sequence[float], confidence: float = CONFIDENCE) -> Spread:
    """Mean, standard deviation and Student's interval of the mean of S seeds. Below two there is the mean alone, below
    MIN_FOR_INTERVAL no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean, None, None, None, tuple(values))
    sd = float(np.std(values, ddof=1))
    if len(values) < MIN_FOR_INTERVAL:
        return Spread(mean, sd, None, None, tuple(values))
    reach = float(stats.t.isf((1 - confidence) / 2, len(values) - 1)) * sd / len(values) ** 0.5
    return Spread(mean, sd, mean - reach, mean + reach, tuple(values))


def holm(p: Array, family: int) -> Array:
    """Adjusted p-values (m,) of a family of at least m hypotheses (Holm 1979, Scandinavian J. of Statistics 6:65-70).

    Those of the family that have no p-value yet count as 1.
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (family - np.arange(len(p))))
    adjusted = np.empty_like(steps)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def verdict(found: Difference, p_holm: float, *, family: int, margin: float, higher_is_better: bool) -> Verdict:
    """What one pair's difference allows to say of its first cell; at least MIN_SEEDS seeds are the caller's care.

    Equivalent: the interval that holds for all pairs of the family at once (confidence 1 - 5% / family) lies inside
    ±margin; a difference that is real but surely smaller than the margin counts as none. Better or worse: Holm's
    p-value is at most 5%. Else inconclusive.
    """
    low, high = family_interval(found, family)
    if -margin < low and high < margin:
        return "equivalent"
    if p_holm > 1 - CONFIDENCE:
        return "inconclusive"
    return "better" if (found.estimate > 0) == higher_is_better else "worse"


def smallest_shown(seeds: int, family: int) -> float:
    """The smallest mean difference that gets a verdict, in standard deviations of the seeds' differences.

    Holm's correction lets the first of a family's pairs pass where its p is at most 5% / family. Were seeds the only
    chance, the error of the mean would be sd / √seeds with seeds - 1 degrees of freedom, so that the difference has to
    reach t(1 - 5% / (2 · family)) · sd / √seeds. Test examples widen the error, and add degrees of freedom.
    """
    return float(stats.t.isf((1 - CONFIDENCE) / family / 2, seeds - 1) / np.sqrt(seeds))


def family_interval(found: Difference, family: int) -> tuple[float, float]:
    """One pair's share of intervals that hold for the whole family at once (Bonferroni)."""
    low, high = found.interval(1 - (1 - CONFIDENCE) / family)
    return float(low), float(high)


def expected_best(scores: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """The best score to expect from k = 1 … n of these n trials, k drawn without replacement.

    Dodge et al. (2019, "Show your work", EMNLP) report this curve; their estimator draws with replacement and is
    biased. This is the unbiased one of Tang et al. (2020, "Showing your work doesn't always work", ACL): with scores v
    sorted from worst to best, Σ_i v_i · C(i-1, k-1) / C(n, k), since v_i is the best where the other k-1 come from the
    i-1 below it.
    """
    ranked = sorted(scores, reverse=not higher_is_better)
    n = len(ranked)
    return [sum(score * comb(below, k - 1) for below, score in enumerate(ranked)) / comb(n, k) for k in range(1, n + 1)]


def seconds_to(history: Sequence[Any], metric: str, score: float, *, higher_is_better: bool) -> float | None:
    """Training seconds after which validation first gave `score` or better; None where it never did.

    Args:
        history: a row an epoch, with `train_seconds` and `validation_<metric>`.
    """
    for row in history:
        value = row.get(f"validation_{metric}")
        if value is not None and (value >= score if higher_is_better else value <= score):
            return float(row["train_seconds"])
    return None
