"""How often a study's verdicts are wrong, and how often they find a difference that is there: simulated studies.

    python benchmarks/power.py

Two methods answer the same examples with several seeds. An example is answered rightly where its ease, plus what the
method has to it, plus what the seed has to it, is above 0:

    ease (per example) + method's level + method's own way (per example) + seed's level + noise (per seed and example)

`identical` methods have no way of their own; `equal` ones answer different examples rightly, as many in the mean. Each
seed's level is drawn for each method apart, so that sharing a seed helps nothing: the hardest case.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from loratory.study.resampling import Replicates, replicate
from loratory.study.statistics import Difference, difference, verdict

ACCURACY, EASE_SD, NOISE_SD, OWN_SD = 0.85, 1.5, 0.5, 0.5
"""Seeds of one method then disagree on about 8% of the examples, as runs of minilm on hutto:movies do."""

EXAMPLES, SEEDS, SEED_SDS = (500, 1000, 2114), (5, 10), (0.0, 0.005, 0.01, 0.02, 0.04)
MARGIN = 0.01
HEADER = """\
| examples | seeds | seed sd, points | methods | same: better or worse | 3 points: better | 1 point: equivalent |
|--:|--:|--:|---|--:|--:|--:|"""
AT_ONCE = 250


@dataclass(frozen=True)
class Setting:
    """One kind of study."""

    examples: int
    seeds: int
    seed_sd: float
    """Standard deviation of a method's accuracy over seeds."""
    own: bool = False
    """Whether each method has its own way with examples."""


def verdicts(setting: Setting, effect: float, *, studies: int, draws: int, seed: int = 0) -> Counter[str]:
    """The verdicts on the first method, whose accuracy is higher by `effect`, of so many simulated studies."""
    random = np.random.default_rng([seed, setting.examples, setting.seeds, int(1e4 * effect)])
    found: Counter[str] = Counter()
    for start in range(0, studies, AT_ONCE):
        count = min(AT_ONCE, studies - start)
        pair = _simulated(setting, effect, count, draws, random)
        for one in zip(pair.estimate, pair.error, pair.freedom, strict=True):
            alone = Difference(*one)
            found[verdict(alone, float(alone.p), family=1, margin=MARGIN, higher_is_better=True)] += 1
    return found


def _simulated(setting: Setting, effect: float, studies: int, draws: int, random: np.random.Generator) -> Difference:
    own_sd = OWN_SD if setting.own else 0.0
    sd = float(np.sqrt(EASE_SD**2 + NOISE_SD**2 + own_sd**2))
    level = stats.norm.ppf([ACCURACY + effect / 2, ACCURACY - effect / 2]) * sd
    seed_sd = setting.seed_sd * sd / stats.norm.pdf(stats.norm.ppf(ACCURACY))  # accuracy to the scale of ease
    shape = (studies, setting.seeds, setting.examples)
    ease = EASE_SD * random.normal(size=(studies, 1, setting.examples))
    logits = []
    for method in range(2):
        own = own_sd * random.normal(size=(studies, 1, setting.examples))
        latent = NOISE_SD * random.standard_normal(shape, dtype=np.float32) + (ease + own + level[method])
        latent += seed_sd * random.normal(size=(studies, setting.seeds, 1))
        right = latent.reshape(-1, setting.examples).astype(np.float32)
        logits.append(np.stack([right, np.zeros_like(right)], axis=-1))
    labels = np.zeros(setting.examples, dtype=np.int64)
    a, b = (
        Replicates(one.values.reshape(shape[:2]), one.draws.reshape(-1, *shape[:2]), setting.examples)
        for one in replicate("accuracy", labels, logits, draws=draws)
    )
    return difference(a, b)


def main() -> None:
    """Simulate every kind of study, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated for each number")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    options = parser.parse_args()
    print(f"{options.studies} studies for each number, {options.draws} draws; margin {100 * MARGIN:g} point\n")
    print(HEADER)
    for setting in (Setting(*kind) for kind in product(EXAMPLES, SEEDS, SEED_SDS, (False, True))):
        null, large, edge = (
            verdicts(setting, effect, studies=options.studies, draws=options.draws) for effect in (0.0, 0.03, MARGIN)
        )
        shares = (
            f"{100 * number / options.studies:.1f}%"
            for number in (null["better"] + null["worse"], large["better"], edge["equivalent"])
        )
        kind = "equal" if setting.own else "identical"
        print(f"| {setting.examples:,} | {setting.seeds} | {100 * setting.seed_sd:g} | {kind} | {' | '.join(shares)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
