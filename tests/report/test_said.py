"""What the page says beside its tables and charts: few statements in front, and none twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.report.said import FIRST, questions
from loratory.study.document import Summary
from loratory.study.observations import TOPICS, observe
from loratory.study.parts import Reached, TimeTo


@pytest.fixture
def many(make_study: Callable[..., Any], read_back: Callable[[Any], Summary], tmp_path: Path) -> Summary:
    """Twenty cells with every pair compared."""
    study = read_back(make_study(tmp_path, (({"name": "standard"}, 0.86), ({"name": "head"}, 0.75)), tuned=False))
    standard, head = study.cells
    cells = [standard]
    for number in range(19):
        reached = TimeTo(0.8, Reached(20.0 - number, 1.0, 30.0, 5))
        changes: dict[str, Any] = {"id": f"x{number}", "approach": f"lora r={number}", "time_to": reached}
        cells.append(dataclasses.replace(head, **changes))
    names = [cell.id for cell in cells]
    pairs = [dataclasses.replace(study.pairs[0], a=a, b=b) for i, a in enumerate(names) for b in names[i + 1 :]]
    said = observe(cells, pairs, (), study.baselines, metric="accuracy", margin=0.01)
    return dataclasses.replace(study, cells=tuple(cells), pairs=tuple(pairs), fronts=(), observations=said)


def test_a_question_has_a_handful_of_statements_in_front_and_none_twice(many: Summary) -> None:
    found = questions(many, many.groups[0])
    assert [one.title for one in found] == [
        *("How good they are", "What is trained", "How long it takes", "How much memory it takes"),
    ]
    assert all(len(one.first) <= FIRST + (not one.rest) for one in found)
    texts = [said.text for one in found for said in (*one.first, *one.rest)]
    assert len(texts) == len(set(texts))
    assert not any("remains open" in text or "is better than head" in text or "In all" in text for text in texts)
    trained = next(one for one in found if one.title == "What is trained")
    assert [one.text for one in trained.first] == [
        "Of the parameters that are trained the classifier head's are from 0.65% (standard) to 100% (lora r=0)."
    ]
    assert len(trained.rest) == 20
    time = next(one for one in found if one.title == "How long it takes")
    soonest = [one.text for one in (*time.first, *time.rest) if "reaches a validation" in one.text]
    assert soonest[0].startswith(
        "lora r=18 reaches a validation accuracy of 80.0%, the level that every approach's mean reaches at the end, "
    )


def test_what_an_alert_says_is_not_said_again(many: Summary) -> None:
    high = tuple(dataclasses.replace(one, accuracy=0.99) for one in many.baselines)
    said = observe(many.cells, (), (), high, metric="accuracy", margin=0.01)
    above = dataclasses.replace(many, baselines=high, observations=said)
    assert any("the mean of no approach is above it" in one.text for one in said)
    texts = [said.text for one in questions(above, above.groups[0]) for said in (*one.first, *one.rest)]
    assert not any("the mean of no approach" in text for text in texts)


def test_in_its_own_part_of_the_page_a_data_set_is_not_named_again(many: Summary) -> None:
    more = [dataclasses.replace(cell, id=f"y{cell.id}", data="hutto:tweets") for cell in many.cells]
    said = observe([*many.cells, *more], (), (), metric="accuracy", margin=0.01)
    both = dataclasses.replace(many, cells=(*many.cells, *more), pairs=(), observations=said)
    assert all(one.text.startswith("hutto:") for one in said)
    assert {one.topic for one in said} <= set(TOPICS)
    for group in both.groups:
        found = questions(both, group)
        assert found
        assert not any("hutto:" in one.text for asked in found for one in (*asked.first, *asked.rest))


def test_of_two_cells_the_answer_is_not_said_again(many: Summary) -> None:
    cells, pairs = many.cells[:2], many.pairs[:1]
    said = observe(cells, pairs, (), metric="accuracy", margin=0.01)
    two = dataclasses.replace(many, cells=cells, pairs=pairs, observations=said)
    assert any(one.topic == "best" for one in said)
    texts = [said.text for one in questions(two, two.groups[0]) for said in (*one.first, *one.rest)]
    assert texts
    assert not any("best mean" in text for text in texts)
