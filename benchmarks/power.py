"""How often a study's verdicts are wrong, and how often they find a difference that is there: simulated studies.

    python benchmarks/power.py
    python benchmarks/power.py --groups
    python benchmarks/power.py --tuning
    python benchmarks/power.py --folds

Two methods answer the same examples with several seeds. An example is answered rightly where its ease, plus what the
method has to it, plus what the seed has to it, is above 0:

    ease (per example) + method's level + method's own way (per example) + seed's level + noise (per seed and example)

`identical` methods have no way of their own; `equal` ones answer different examples rightly, as many in the mean. Each
seed's level is drawn for each method apart, so that sharing a seed helps nothing: the hardest case.

With --groups 1,000 examples belong to groups of unlike sizes (exponential), which are easy or hard as a whole, and to
which each method has its own way.

With --tuning each method has four learning rates. Its accuracy falls from the best rate by curvature x steps², where
the best is one of the four or lies between two; both methods have the same curve, and are the same in truth. A rate has
a small way of its own with examples, the same for every seed, and a seed's level with it counts on validation and test
alike, as the final run is the training of its trial. The rate is chosen on a finite validation split: by each seed for
itself, or by the first for all. About 5 minutes on 2 cores.

With --folds every example is tested once, by a model that is trained on the other folds without its validation. Every
training example moves each method's level by an amount of its own, so that what two folds' training sets share moves
both: that is the hardest case of all that depend on the training set, since higher orders are shared less. `training
sd` is the standard deviation that a training set so gives the accuracy of one run. Beside the study's rule there is
what would be claimed if folds counted for nothing (examples and seeds alone), and by Student's t over folds,
uncorrected.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import stats

from loratory.study.resampling import Replicates, replicate
from loratory.study.statistics import Difference, difference, over_folds, verdict

Array = npt.NDArray[np.float32]

ACCURACY, EASE_SD, NOISE_SD, OWN_SD = 0.85, 1.5, 0.5, 0.5
"""Seeds of one method then disagree on about 8% of the examples, as runs of minilm on hutto:movies do."""

EXAMPLES, SEEDS, SEED_SDS = (500, 1000, 2114), (5, 10), (0.0, 0.005, 0.01, 0.02, 0.04)
GROUPS, GROUP_EASE_SD, GROUP_OWN_SD = (10, 20, 60, 200), 0.5, 0.3
"""Of all examples of a group together, beside their own."""

MARGIN = 0.01
GROUP_HEADER = """\
| groups | seeds | seed sd, points | same: better or worse | if one by one | 3 points: better | 1 point: equivalent |
|--:|--:|--:|--:|--:|--:|--:|"""
HEADER = """\
| examples | seeds | seed sd, points | methods | same: better or worse | 3 points: better | 1 point: equivalent |
|--:|--:|--:|---|--:|--:|--:|"""
AT_ONCE = 250

FOLD_EXAMPLES, FOLDS, FOLD_SEEDS, TRAINING_SDS = (200, 500, 1000), (5, 10), (1, 3), (0.0, 0.005, 0.01, 0.02)
FOLD_SEED_SD = 0.01
FOLD_VALIDATION = 0.1
"""Share of the examples that are validation, in every fold others."""

FOLD_HEADER = """\
| examples | folds | seeds | training sd, points | same: better or worse | examples and seeds alone | t over folds | \
5 points: better |
|--:|--:|--:|--:|--:|--:|--:|--:|"""

RATES, RATE_SD = 4, 0.25
"""Two seeds of a method then disagree on 7.8% of the examples at one rate, on 8.7% at two."""

VALIDATION, TEST = 1057, 2114
"""Examples, as hutto:movies has."""

CURVATURES, OPTIMA, TUNED_SEED_SDS = (0.0025, 0.005, 0.01, 0.02), (1.0, 1.5), (0.003, 0.005, 0.01)
TUNING_HEADER = """\
| curvature, points | seeds | seed sd, points | each, at a rate | each, between | first, at a rate | first, between |
|--:|--:|--:|--:|--:|--:|--:|"""


@dataclass(frozen=True)
class Setting:
    """One kind of study."""

    examples: int
    seeds: int
    seed_sd: float
    """Standard deviation of a method's accuracy over seeds."""
    own: bool = False
    """Whether each method has its own way with examples."""
    groups: int | None = None
    """How many groups the examples belong to; None: each stands for itself."""
    known: bool = True
    """Whether the groups are resampled whole, or examples as if there were none."""


@dataclass(frozen=True)
class Tuned:
    """One kind of study of two methods that have the same curve over their rates."""

    seeds: int
    seed_sd: float
    """Standard deviation of a method's accuracy over seeds, at one rate."""
    curvature: float
    """What accuracy loses one step from the best rate."""
    optimum: float
    """The place of the best rate among those tried: 0 to 3."""
    each: bool
    """Whether each seed chooses its own rate, or the first for all."""
    validation: int = VALIDATION
    """Examples that the rate is chosen on."""


@dataclass(frozen=True)
class Folded:
    """One kind of study by folds of two methods."""

    examples: int
    folds: int
    seeds: int
    training_sd: float
    """Standard deviation of a run's accuracy over training sets."""


RULES = ("study", "crossed", "t")
"""What verdicts rest on: the study's rule; examples and seeds alone; Student's t over folds, uncorrected."""


def fold_verdicts(folded: Folded, effect: float, *, studies: int, draws: int, seed: int = 0) -> dict[str, Counter[str]]:
    """The verdicts on the first method, whose accuracy is higher by `effect`, by each of `RULES`."""
    kind = [seed, folded.examples, folded.folds, folded.seeds, int(1e4 * folded.training_sd), int(1e4 * effect)]
    random = np.random.default_rng(kind)
    found: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    for start in range(0, studies, AT_ONCE):
        count = min(AT_ONCE, studies - start)
        a, b, ratio = _simulated_folds(folded, effect, count, draws, random)
        assert a.folds is not None
        assert b.folds is not None
        crossed = difference(replace(a, folds=None), replace(b, folds=None))
        plain = over_folds((a.folds - b.folds).mean(axis=-1), crossed.estimate, 0.0)
        plain = replace(plain, error=np.maximum(plain.error, 1e-9))  # folds may happen to be equal
        pairs = {"study": difference(a, b, test_to_train=ratio), "crossed": crossed, "t": plain}
        for rule, pair in pairs.items():
            found[rule] += _judged(partial(_as_it_is, pair), count)
    return found


def _as_it_is(pair: Difference, count: int) -> Difference:
    return pair


def verdicts(setting: Setting, effect: float, *, studies: int, draws: int, seed: int = 0) -> Counter[str]:
    """The verdicts on the first method, whose accuracy is higher by `effect`, of so many simulated studies."""
    random = np.random.default_rng([seed, setting.examples, setting.seeds, int(1e4 * effect)])
    return _judged(lambda count: _simulated(setting, effect, count, draws, random), studies)


def tuned_verdicts(tuned: Tuned, *, studies: int, draws: int, seed: int = 0) -> Counter[str]:
    """The verdicts on the first of two methods that are the same in truth, each tuned."""
    random = np.random.default_rng([seed, tuned.seeds, int(1e4 * tuned.curvature), int(10 * tuned.optimum)])
    return _judged(lambda count: _simulated_tuning(tuned, count, draws, random), studies)


def _judged(simulated: Callable[[int], Difference], studies: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for start in range(0, studies, AT_ONCE):
        pair = simulated(min(AT_ONCE, studies - start))
        for one in zip(pair.estimate, pair.error, pair.freedom, strict=True):
            alone = Difference(*one)
            found[verdict(alone, float(alone.p), family=1, margin=MARGIN, higher_is_better=True)] += 1
    return found


def _simulated(setting: Setting, effect: float, studies: int, draws: int, random: np.random.Generator) -> Difference:
    own_sd = OWN_SD if setting.own else 0.0
    of_groups = GROUP_EASE_SD**2 + GROUP_OWN_SD**2 if setting.groups is not None else 0.0
    sd = float(np.sqrt(EASE_SD**2 + NOISE_SD**2 + own_sd**2 + of_groups))
    level = stats.norm.ppf([ACCURACY + effect / 2, ACCURACY - effect / 2]) * sd
    seed_sd = setting.seed_sd * _scale(sd)
    shape = (studies, setting.seeds, setting.examples)
    ease = EASE_SD * random.normal(size=(studies, 1, setting.examples))
    units = _units(setting, random)
    grouped = setting.groups is not None
    if grouped:
        ease += GROUP_EASE_SD * random.normal(size=(studies, 1, setting.examples))[..., units]
    latents = []
    for method in range(2):
        own = own_sd * random.normal(size=(studies, 1, setting.examples))
        if grouped:
            own += GROUP_OWN_SD * random.normal(size=(studies, 1, setting.examples))[..., units]
        latent = NOISE_SD * random.standard_normal(shape, dtype=np.float32) + (ease + own + level[method])
        latents.append(latent + seed_sd * random.normal(size=(studies, setting.seeds, 1)))
    return _compared(latents, units if setting.known else np.arange(setting.examples), draws)


def _units(setting: Setting, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The group of each example, of sizes that are exponential; itself where there are no groups."""
    if setting.groups is None:
        return np.arange(setting.examples)
    sizes = random.exponential(size=setting.groups) + 1e-3
    others = random.choice(setting.groups, setting.examples - setting.groups, p=sizes / sizes.sum())
    return np.concatenate([np.arange(setting.groups), others])


def _simulated_tuning(tuned: Tuned, studies: int, draws: int, random: np.random.Generator) -> Difference:
    sd = float(np.sqrt(EASE_SD**2 + NOISE_SD**2 + OWN_SD**2 + RATE_SD**2))
    level = stats.norm.ppf(ACCURACY - tuned.curvature * (np.arange(RATES) - tuned.optimum) ** 2) * sd
    V, N = tuned.validation, tuned.validation + TEST
    ease = EASE_SD * random.standard_normal((studies, 1, N), dtype=np.float32)
    latents = []
    for _ in range(2):
        own = OWN_SD * random.standard_normal((studies, 1, N), dtype=np.float32)
        ways = ease + own + RATE_SD * random.standard_normal((studies, RATES, N), dtype=np.float32)
        levels = level[:, None] + tuned.seed_sd * _scale(sd) * random.normal(size=(studies, RATES, tuned.seeds))
        choosing = levels if tuned.each else levels[..., :1]
        scores = [_answers(ways[:, rate, None, :V], choosing[:, rate], random) > 0 for rate in range(RATES)]
        chosen = np.mean(scores, axis=-1).argmax(axis=0)  # (studies, seeds that choose); of equals the smaller rate
        chosen = np.broadcast_to(chosen, (studies, tuned.seeds))[:, None]
        of_chosen = np.take_along_axis(levels, chosen, axis=1)[:, 0]
        latents.append(_answers(ways[np.arange(studies)[:, None], chosen[:, 0], V:], of_chosen, random))
    return _compared(latents, np.arange(N - V), draws)


def _simulated_folds(
    folded: Folded, effect: float, studies: int, draws: int, random: np.random.Generator
) -> tuple[Replicates, Replicates, float]:
    """Both methods, and test examples over training examples."""
    N, K, S = folded.examples, folded.folds, folded.seeds
    sd = float(np.sqrt(EASE_SD**2 + NOISE_SD**2 + OWN_SD**2))
    level = stats.norm.ppf([ACCURACY + effect / 2, ACCURACY - effect / 2]) * sd
    fold = np.arange(N) % K
    chosen_on = np.arange(N) // K < FOLD_VALIDATION * N  # of the next fold as many as validation has
    trained = np.stack([(fold != k) & ~((fold == (k + 1) % K) & chosen_on) for k in range(K)]).astype(np.float64)
    size = float(trained.sum(axis=1).mean())
    ease = EASE_SD * random.standard_normal((studies, 1, N), dtype=np.float32)
    latents = []
    for method in range(2):
        own = OWN_SD * random.standard_normal((studies, 1, N), dtype=np.float32)
        moved = random.normal(size=(studies, N)) @ trained.T / np.sqrt(size) * folded.training_sd  # (studies, K)
        levels = moved[:, None] + FOLD_SEED_SD * random.normal(size=(studies, S, K))
        latent = NOISE_SD * random.standard_normal((studies, S, N), dtype=np.float32) + (ease + own + level[method])
        latents.append(latent + _scale(sd) * levels[..., fold])
    a, b = _replicated(latents, np.arange(N), draws, fold)
    return a, b, N / K / size


def _answers(ways: Array, levels: Array, random: np.random.Generator) -> Array:
    """Ways (studies, seeds or 1, N), seeds' levels (studies, seeds): above 0 where an example is answered rightly."""
    shape = (*levels.shape, ways.shape[-1])
    return NOISE_SD * random.standard_normal(shape, dtype=np.float32) + ways + levels[..., None].astype(np.float32)


def _scale(sd: float) -> float:
    """From accuracy to the scale of ease."""
    return float(sd / stats.norm.pdf(stats.norm.ppf(ACCURACY)))


def _compared(latents: Sequence[Array], units: npt.NDArray[np.int64], draws: int) -> Difference:
    """Two methods' latents, each (studies, seeds, examples), and the unit of each example."""
    a, b = _replicated(latents, units, draws)
    return difference(a, b)


def _replicated(
    latents: Sequence[Array],
    units: npt.NDArray[np.int64],
    draws: int,
    folds: npt.NDArray[np.int64] | None = None,
) -> list[Replicates]:
    """Each method's accuracy, studies x seeds."""
    studies, seeds, examples = latents[0].shape
    logits = []
    for latent in latents:
        right = latent.reshape(-1, examples).astype(np.float32)
        logits.append(np.stack([right, np.zeros_like(right)], axis=-1))
    labels = np.zeros(examples, dtype=np.int64)
    return [
        Replicates(
            one.values.reshape(studies, seeds),
            one.draws.reshape(-1, studies, seeds),
            one.sizes,
            None if one.folds is None else one.folds.reshape(-1, studies, seeds),
        )
        for one in replicate("accuracy", labels, units, logits, folds=folds, draws=draws)
    ]


def tuning_table(studies: int, draws: int, validation: int) -> None:
    """How often methods that are the same are told apart, by who chose the rate."""
    print(TUNING_HEADER)
    for curvature, seeds, seed_sd in product(CURVATURES, SEEDS, TUNED_SEED_SDS):
        shares = []
        for each, optimum in product((True, False), OPTIMA):
            kind = Tuned(seeds, seed_sd, curvature, optimum, each, validation)
            found = tuned_verdicts(kind, studies=studies, draws=draws)
            shares.append(f"{100 * (found['better'] + found['worse']) / studies:.1f}%")
        print(f"| {100 * curvature:g} | {seeds} | {100 * seed_sd:g} | {' | '.join(shares)} |")
        sys.stdout.flush()


def groups_table(studies: int, draws: int) -> None:
    """The same for examples in groups, and what would be claimed if examples were resampled one by one."""
    print(GROUP_HEADER)
    for groups, seeds, seed_sd in product(GROUPS, SEEDS, (0.005, 0.01)):
        setting = Setting(1000, seeds, seed_sd, own=True, groups=groups)
        null, large, edge = (verdicts(setting, effect, studies=studies, draws=draws) for effect in (0.0, 0.03, MARGIN))
        alone = verdicts(replace(setting, known=False), 0.0, studies=studies, draws=draws)
        numbers = (
            null["better"] + null["worse"],
            alone["better"] + alone["worse"],
            large["better"],
            edge["equivalent"],
        )
        shares = " | ".join(f"{100 * number / studies:.1f}%" for number in numbers)
        print(f"| {groups} | {seeds} | {100 * seed_sd:g} | {shares} |")
        sys.stdout.flush()


def folds_table(studies: int, draws: int) -> None:
    """How often folds claim what is not there, by each rule, and how often they find five points."""
    print(FOLD_HEADER)
    for kind in product(FOLD_EXAMPLES, FOLDS, FOLD_SEEDS, TRAINING_SDS):
        folded = Folded(*kind)
        null = fold_verdicts(folded, 0.0, studies=studies, draws=draws)
        large = fold_verdicts(folded, 0.05, studies=studies, draws=draws)["study"]["better"]
        numbers = [*(null[rule]["better"] + null[rule]["worse"] for rule in RULES), large]
        shares = " | ".join(f"{100 * number / studies:.1f}%" for number in numbers)
        print(f"| {kind[0]:,} | {kind[1]} | {kind[2]} | {100 * folded.training_sd:g} | {shares} |")
        sys.stdout.flush()


def power_table(studies: int, draws: int) -> None:
    """How often differences are claimed that are not there, and found that are."""
    print(HEADER)
    for setting in (Setting(*kind) for kind in product(EXAMPLES, SEEDS, SEED_SDS, (False, True))):
        null, large, edge = (verdicts(setting, effect, studies=studies, draws=draws) for effect in (0.0, 0.03, MARGIN))
        shares = (
            f"{100 * number / studies:.1f}%"
            for number in (null["better"] + null["worse"], large["better"], edge["equivalent"])
        )
        kind = "equal" if setting.own else "identical"
        print(f"| {setting.examples:,} | {setting.seeds} | {100 * setting.seed_sd:g} | {kind} | {' | '.join(shares)} |")
        sys.stdout.flush()


def main() -> None:
    """Simulate every kind of study, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated for each number")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--groups", action="store_true", help="of studies whose examples belong to groups")
    parser.add_argument("--tuning", action="store_true", help="of studies whose methods are the same, each tuned")
    parser.add_argument("--folds", action="store_true", help="of studies by cross-validation")
    parser.add_argument("--validation", type=int, default=VALIDATION, help="examples that rates are chosen on")
    options = parser.parse_args()
    print(f"{options.studies} studies for each number, {options.draws} draws; margin {100 * MARGIN:g} point\n")
    if options.groups:
        groups_table(options.studies, options.draws)
    elif options.folds:
        folds_table(options.studies, options.draws)
    elif options.tuning:
        tuning_table(options.studies, options.draws, options.validation)
    else:
        power_table(options.studies, options.draws)


if __name__ == "__main__":
    main()
