"""Sentences say what the numbers and verdicts allow, and nothing beyond."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from loratory.report.drawing import times
from loratory.study.document import Summary
from loratory.study.observations import observe
from loratory.study.observed import listed
from loratory.study.observed_costs import _of_those_that_do
from loratory.study.parts import Observation
from loratory.study.results import load_study
from loratory.study.summary import summarise

NO_FRONT = "no pair has a verdict, so there is no front to speak of."
STANDARD, HEAD = {"name": "standard"}, {"name": "head"}


def lora(rank: int) -> dict[str, Any]:
    return {"name": "lora", "rank": rank, "alpha": 2 * rank, "targets": "attention"}


@pytest.fixture
def summarised(fabricated: Callable[..., Any], cell: Callable[..., Any]) -> Callable[..., Summary]:
    """(cells, seeds, **plan) -> the summary of a study of them; a cell is (method, accuracy, settings)."""

    def make(*cells: tuple[dict[str, Any], float, dict[str, Any]], seeds: int = 5, **plan: Any) -> Summary:
        made = [cell(method, accuracy, **settings) for method, accuracy, settings in cells]
        place = fabricated(made, seeds=range(seeds), sizes=(200, 2000)).write(**plan)
        return summarise(load_study(place), with_baselines=False, draws=1000)

    return make


def texts(summary: Summary) -> str:
    return "\n".join(one.text for one in summary.observations)


def about(summary: Summary, start: str) -> Observation:
    return next(one for one in summary.observations if one.text.startswith(start))


def test_parameters_and_the_share_of_the_head(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {}), (lora(8), 0.85, {}), (HEAD, 0.8, {}))
    assert about(found, "lora r=8 attention trains").text == (
        "lora r=8 attention trains 222.3k of 22.9M parameters, 0.97%; 148.6k of these (66.8%) are the classifier "
        "head's, more than the 73.7k of the adapter."
    )
    assert about(found, "standard trains all 22.9M parameters; 148.6k of these (0.65%)")
    assert about(found, "head trains 148.6k of 22.9M parameters, 0.65%; all of them are the classifier head's.")
    assert about(found, "lora r=8 attention trains").figures["trainable"] == 222_338


def test_pairs_say_difference_interval_and_verdict(summarised: Callable[..., Summary]) -> None:
    found = summarised((lora(1), 0.78, {}), (STANDARD, 0.86, {}), (lora(2), 0.86, {"like": 2}), (HEAD, 0.852, {}))
    better = about(found, "standard is better than lora r=1 attention in test accuracy: +")
    assert (better.verdict, better.cells) == ("better", ("c2", "c1"))
    assert better.figures["low"] > 0  # turned with the sentence
    pattern = (
        r".*\+\d\.\d\d points, 95% interval \+\d\.\d\d to \+\d+\.\d\d \(p [<=] 0\.\d+ after Holm's correction over "
        r"6 pairs; 5 seeds, 2,000 examples\)\."
    )
    assert re.fullmatch(pattern, better.text)
    same = about(
        found, "standard and lora r=2 attention are equivalent in test accuracy: their difference (0.00 points"
    )
    assert same.verdict == "equivalent"
    assert "lies within ±1.00 points (5 seeds, 2,000 examples; 6 pairs taken together)" in same.text
    open_ = about(found, "Whether standard or head has the better test accuracy remains open")
    assert open_.verdict == "inconclusive"
    assert open_.figures["low"] < 0 < open_.figures["high"]


def test_below_five_seeds_nothing_is_better(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.9, {}), (lora(1), 0.6, {"seconds": 5.0}), seeds=3)
    assert not re.search(r"is better|are equivalent|is worse", texts(found).replace("which has the better", ""))
    told = about(found, "No verdict on standard against lora r=1 attention: 3 common seeds; a verdict needs 5.")
    assert told.verdict is None
    assert re.search(r"differs by \+\d+\.\d\d points in the mean", told.text)
    assert "without a verdict against lora r=1 attention" in about(found, "The best mean").text
    assert "(3 seeds: too few to rely on)" in about(found, "lora r=1 attention trains for").text
    (told,) = (one.text for one in found.observations if one.topic == "fronts")
    assert told.endswith("training time, total time, peak memory and bytes on disk: " + NO_FRONT)


def test_better_is_said_only_with_the_verdict(summarised: Callable[..., Summary]) -> None:
    """Whatever the verdicts, `A is better than B` stands in a sentence only where they say so."""
    found = summarised((STANDARD, 0.9, {}), (lora(1), 0.7, {}), (lora(4), 0.8, {}), (lora(8), 0.85, {}))
    names = {cell.id: cell.approach for cell in found.cells}
    for verdict in ("equivalent", "inconclusive", None):
        pairs = [replace(one, verdict=verdict, why_none=None if verdict else "so it is") for one in found.pairs]
        said = observe(found.cells, pairs, (), metric="accuracy", margin=0.01)
        assert not any("is better than" in one.text for one in said)
        assert not any(one.verdict in ("better", "worse") for one in said)
    allowed = {(one.a, one.b) for one in found.pairs if one.verdict == "better"}
    allowed |= {(one.b, one.a) for one in found.pairs if one.verdict == "worse"}
    for one in found.observations:
        if one.verdict == "better" and len(one.cells) == 2:
            assert one.cells in allowed
            assert one.text.startswith(f"{names[one.cells[0]]} is better than {names[one.cells[1]]} ")


def test_the_best_and_its_ties(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {}), (lora(8), 0.855, {}), (HEAD, 0.75, {}))
    text = about(found, "The best mean test accuracy is").text
    assert "of standard: it is better than head; not shown to differ from lora r=8 attention. lora r=8" in text
    assert text.endswith("attention, not shown to be worse, trains fewer parameters: 222.3k against 22.9M.")


def test_many_ties_are_counted_and_the_smallest_of_them_is_named(summarised: Callable[..., Summary]) -> None:
    found = summarised(*((lora(rank), 0.85 + rank / 1e4, {}) for rank in (1, 2, 4, 8, 16)), (HEAD, 0.6, {}))
    tied = [replace(one, verdict="inconclusive") if "c5" not in (one.a, one.b) else one for one in found.pairs]
    text = next(line for line in texts_of(found, tied).splitlines() if line.startswith("The best mean"))
    assert (
        "of lora r=16 attention: it is better than head; not shown to differ from 4 of the 5 others. lora r=1" in text
    )
    assert text.endswith(
        "lora r=1 attention, not shown to be worse, trains the fewest parameters of these: 157.8k against 296.1k."
    )
    all_tied = [replace(one, verdict="inconclusive") for one in found.pairs]
    text = next(line for line in texts_of(found, all_tied).splitlines() if line.startswith("The best mean"))
    assert "of lora r=16 attention: not shown to differ from any of the 5 others." in text
    assert "head, not shown to be worse, trains the fewest" in text


def test_ranks(summarised: Callable[..., Summary]) -> None:
    found = summarised((lora(8), 0.88, {}), (lora(1), 0.7, {}), (lora(4), 0.8, {}), (STANDARD, 0.8, {}))
    trend = about(found, "From r=1 to r=8 (lora attention), test accuracy is")
    assert trend.cells == ("c1", "c2", "c3")
    assert trend.text.endswith("r=4 is better than r=1, r=8 is better than r=1 and r=8 is better than r=4.")
    two = summarised_ranks(found, [0, 1])
    assert not any(one.text.startswith("From r=") for one in two)
    flat = [replace(one, verdict="inconclusive") for one in found.pairs]
    assert "No rank is shown to be better than another." in texts_of(found, flat)
    none = [replace(one, verdict=None, why_none="x") for one in found.pairs]
    assert "nothing is said of a trend" in texts_of(found, none)
    same = [replace(one, verdict="equivalent") for one in found.pairs]
    assert "All these ranks are equivalent." in texts_of(found, same)


def test_without_an_update_there_is_no_rank_to_speak_of(summarised: Callable[..., Summary]) -> None:
    hybrids = [({**lora(rank), "name": "hybrid", "unfrozen_layers": 2}, 0.8, {}) for rank in (0, 1, 4)]
    assert "From r=" not in texts(summarised(*hybrids))


def summarised_ranks(summary: Summary, places: list[int]) -> tuple[Observation, ...]:
    cells = [summary.cells[place] for place in places]
    names = {cell.id for cell in cells}
    pairs = [one for one in summary.pairs if {one.a, one.b} <= names]
    return observe(cells, pairs, (), metric="accuracy", margin=0.01)


def texts_of(summary: Summary, pairs: list[Any]) -> str:
    return "\n".join(one.text for one in observe(summary.cells, pairs, (), metric="accuracy", margin=0.01))


def test_time_and_why_there_is_no_gain(summarised: Callable[..., Summary]) -> None:
    found = summarised(
        (STANDARD, 0.86, {"seconds": 40}), (lora(8), 0.85, {"seconds": 20}), (lora(1), 0.8, {"seconds": 40})
    )
    faster = about(found, "lora r=8 attention trains for 20.2 s")
    assert faster.text.endswith("49.8% less than the 40.2 s of standard; what it went into is not known.")
    assert (faster.cells, faster.verdict) == (("c2", "c1"), None)
    same = about(found, "lora r=1 attention trains for 40.2 s").text
    assert "not shown to differ from the 40.2 s of standard, as their ranges touch: the layers above" in same
    assert "20.0% of the rows computed for lora r=1 attention were padding or filler" in same
    assert "In all, lora r=8 attention takes 26.0 s in its median run: 77.7% of it training, 15.4% set-up" in texts(
        found
    )


def test_memory_and_what_it_is_made_of(summarised: Callable[..., Summary]) -> None:
    found = summarised(
        *((STANDARD, 0.86, {"memory": 2**30}), (lora(8), 0.85, {"memory": 2**29}), (lora(1), 0.8, {"memory": 2**31}))
    )
    assert about(found, "lora r=8 attention needs at most 512 MiB (resident set, 5 seeds), 50.0% less than the 1.0 GiB")
    more = about(found, "lora r=1 attention needs at most 2.0 GiB (resident set, 5 seeds), 100% more than").text
    assert "its peak is rest" in more
    assert "activations 23.3%" in more
    assert "gradients and optimizer state, which fewer trained parameters save, are 0.28% of standard's" in more


def test_memory_that_a_cpu_does_not_tell_apart_is_about_the_same(summarised: Callable[..., Summary]) -> None:
    found = summarised(
        *((STANDARD, 0.86, {"memory": 1000 * 2**20}), (lora(8), 0.86, {"memory": 900 * 2**20, "like": 1})),
        (HEAD, 0.7, {"memory": 1100 * 2**20}),
    )
    for name in ("lora r=8 attention", "head"):
        said = about(found, f"{name} needs at most").text
        assert "about the same as the 1.0 GiB of standard, as on a CPU differences below 15% are not resolved" in said
        assert "less than" not in said.split(";")[0]
        assert "more than" not in said.split(";")[0]
    front = next(one for one in found.fronts if one.axis == "peak_memory_bytes")
    assert not any(front.tied_with_cheaper(point) for point in front.points)
    head = next(point for point in front.points if point.cell == "c3")
    assert not head.on_front
    front = summarised((HEAD, 0.7, {"memory": 900}), (STANDARD, 0.86, {"memory": 1000})).fronts[3]
    assert (front.axis, [point.on_front for point in front.points]) == ("peak_memory_bytes", [False, True])
    front = summarised((HEAD, 0.7, {"memory": 800}), (STANDARD, 0.86, {"memory": 1000})).fronts[3]
    assert [point.on_front for point in front.points] == [True, True]


def test_below_three_common_seeds_a_difference_has_no_interval(summarised: Callable[..., Summary]) -> None:
    for seeds in (2, 3):
        (pair,) = summarised((STANDARD, 0.9, {}), (lora(1), 0.6, {}), seeds=seeds).pairs
        numbers = (pair.low, pair.high, pair.family_low, pair.family_high, pair.p, pair.p_holm)
        assert pair.difference is not None
        assert [number is not None for number in numbers] == [seeds == 3] * 6


def test_of_an_even_number_of_seeds_the_run_that_is_taken_apart_is_named(summarised: Callable[..., Summary]) -> None:
    assert "in the shorter of its two middle runs: " in texts(summarised((STANDARD, 0.9, {}), seeds=2))
    assert "in its median run: " in texts(summarised((STANDARD, 0.9, {}), seeds=3))


@pytest.mark.parametrize(
    ("reached", "runs", "said"),
    [
        (5, 5, " (median of 5 seeds)"),
        (3, 5, " (median of 3 seeds; the other 2 of 5 do not reach it)"),
        (1, 2, " (one of 2 seeds; no other reaches it)"),
        (1, 1, ""),
    ],
)
def test_of_how_many_seeds_a_time_to_a_score_is(reached: int, runs: int, said: str) -> None:
    assert _of_those_that_do(reached, runs, "seed") == said


def test_what_dominates_is_said_of_the_reference_too_or_why_it_is_not_known(
    summarised: Callable[..., Summary],
) -> None:
    found = summarised((STANDARD, 0.86, {}), (lora(8), 0.85, {"seconds": 1}))
    standard = replace(found.cells[0], time_parts_seconds={"forward": 3.0, "backward": 6.0, "optimizer": 1.0})
    odd = replace(found.cells[1], memory_parts_bytes={"weights": 2.0**21, "rest": -(2.0**20)})
    said = texts_of(replace(found, cells=(standard, odd)), [])
    assert re.search(
        r"^standard trains for .*; 90% are forward and backward passes through the whole model", said, re.M
    )
    assert re.search(
        r"^lora r=8 attention needs at most .* \(rest −1 MiB\), so that none is said to dominate", said, re.M
    )


def test_incomplete_cells_are_told(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {}), (lora(8), 0.85, {"failed": {3: "diverged"}}))
    assert about(found, "1 of 5 final runs of lora r=8 attention did not complete")


def test_several_data_sets_are_named(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {}), (STANDARD, 0.8, {"data": "hutto:tweets"}))
    assert all(one.text.startswith(("hutto:movies, minilm: ", "hutto:tweets, minilm: ")) for one in found.observations)


def test_other_metrics_have_their_own_unit(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.9, {}), (lora(1), 0.7, {}), select="log_loss")
    assert re.search(r"standard is better than lora r=1 attention in test log loss: −0\.\d{4} nats", texts(found))
    assert re.search(r"The best mean test log loss is 0\.\d{3}, of standard", texts(found))


def test_many_approaches_are_counted_where_a_cost_is_set_against_quality(summarised: Callable[..., Summary]) -> None:
    found = summarised(*((lora(rank), 0.85, {"like": 1}) for rank in (1, 2, 4, 8, 16)), (HEAD, 0.7, {}))
    text = about(found, "Test accuracy against trainable parameters").text
    assert "lora r=16" not in text
    assert re.search(r"on the front are (all 6|5 of 6)", text)


def test_parts_of_total_time_are_those_of_one_run(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {}), (HEAD, 0.8, {}))
    cell = found.cells[0]
    cost = dict(cell.cost)
    for key, values in {
        "train_seconds": (1.0, 8.0, 1.0, 1.0, 1.0),
        "setup_seconds": (6.0, 1.0, 1.0, 1.0, 1.0),
        "eval_seconds": (1.0, 1.0, 1.0, 1.0, 9.0),
        "total_seconds": (9.0, 11.0, 4.0, 4.0, 12.0),
    }.items():
        cost[key] = replace(cost[key], median=sorted(values)[2], values=values)
    said = observe([replace(cell, cost=cost)], (), (), metric="accuracy", margin=0.01)
    text = next(one.text for one in said if one.topic == "total_time")
    assert (
        text == "In all, standard takes 9.00 s in its median run: 11.1% of it training, 66.7% set-up, 11.1% evaluation."
    )
    assert times(replace(cell, cost=cost)) == {"setup": 6.0, "train": 1.0, "eval": 1.0, "other": 1.0}


def test_costs_of_which_the_same_is_said_share_a_sentence(summarised: Callable[..., Summary]) -> None:
    found = summarised((STANDARD, 0.86, {"seconds": 40}), (HEAD, 0.7, {"seconds": 10}))
    said = [one for one in found.observations if one.topic == "fronts"]
    assert len({one.text.partition(": ")[2] for one in said}) == len(said)
    told = next(one for one in said if "training time" in one.text)
    assert told.text.startswith("Test accuracy against trainable parameters, training time, total time")
    assert set(told.figures) >= {"trainable", "train_seconds", "total_seconds"}


def test_names_with_commas_are_divided_by_semicolons() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["standard", "standard, layer_decay=0.8", "head"]) == "standard; standard, layer_decay=0.8; and head"
