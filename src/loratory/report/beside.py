"""The baselines beside a study's approaches: what they score, and where one is above all of them."""

from __future__ import annotations

from loratory.evaluation.metrics import METRICS
from loratory.report import axes
from loratory.study.document import Group, Summary
from loratory.study.observed import listed

SAME_AUTHORS = (
    "VADER's word list and the ratings of these texts were made by the same authors (Hutto & Gilbert 2014), so that it "
    "is at home here."
)
"""What is said where VADER is above every approach on their data."""


def baselines(study: Summary, group: Group) -> list[tuple[str, float]]:
    """Names and scores of the group's baselines by the metric of the study, best first; none where they lack it."""
    scores = [
        (one.name, score)
        for one in study.baselines
        if (one.data, one.limit) == (group.data, group.limit) and (score := one.value(study.select)) is not None
    ]
    return sorted(scores, key=lambda one: one[1], reverse=METRICS[study.select].higher_is_better)


def above_all(study: Summary) -> list[str]:
    """Of each data set and model, the baselines that score better than the mean of every approach."""
    found, measure = [], METRICS[study.select]
    show = axes.show_metric(study.select)
    for group in study.groups:
        means = [mean.mean for cell in group.cells if (mean := cell.score(study.select)) is not None]
        best = max(means, key=lambda mean: mean if measure.higher_is_better else -mean, default=None)
        above = [one for one in baselines(study, group) if best is not None and measure.better(one[1], best)]
        if above:
            where = f"{group.title}: " if len(study.groups) > 1 else ""
            reach = listed([f"{name} reaches {show(score)}" for name, score in above])
            side = "above" if measure.higher_is_better else "below"
            text = f"{where}{reach}, {side} the mean of every approach ({axes.metric_words(study.select)}, test)."
            kin = group.data.startswith("hutto:") and any(name == "VADER" for name, _ in above)
            found.append(f"{text} {SAME_AUTHORS}" if kin else text)
    return found
