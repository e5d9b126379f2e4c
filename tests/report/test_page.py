"""The page as text: what it says of every kind of study, and that nothing in it can run or load anything."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loratory.data import make_dataset
from loratory.evaluation.predictions import Predictions
from loratory.report import comparing, prose
from loratory.report.comparing import pairs_grid
from loratory.report.disagreement import disputed
from loratory.report.drawing import draw
from loratory.report.evidence import CellEvidence, gather
from loratory.report.page import render
from loratory.report.study import write
from loratory.report.study_table import study_table
from loratory.spec import DataSpec
from loratory.store.record import RunRecord

Document = dict[str, Any]
PageOf = Callable[[Document, Path], str]

HOSTILE = "</script><img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("x")'


class Parsed(HTMLParser):
    """The page's elements and its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def page_of(read_back: Any) -> PageOf:
    """(document of the summary, the study's directory) -> the page."""

    def rendered(document: Document, place: Path) -> str:
        study = read_back(document)
        evidence = gather(place, study)
        return render(study, evidence, {g.key: draw(study, g, evidence.of(g.cells)) for g in study.groups})

    return rendered


@pytest.fixture(scope="module")
def page(page_of: PageOf, summary: Document, place: Path) -> Parsed:
    return Parsed(page_of(summary, place))


def test_page_leads_with_the_answer_then_the_table(page: Parsed, summary: Document) -> None:
    assert page.text.index("The answer") < page.text.index(summary["observations"][0]["text"])
    assert page.text.index(summary["observations"][0]["text"]) < page.text.index("What each approach costs")
    assert summary["observations"][1]["text"] in page.text
    for heading in ("Which differences are real", "Quality by rank", "Learning", "Choosing the learning rate"):
        assert heading in page.text
    for heading in (
        "Calibration",
        "Where approaches disagree",
        "Every run",
        "How it was done",
        "What this does not show",
    ):
        assert heading in page.text
    assert "standard is better" in page.text
    assert "NVIDIA H100 80GB HBM3" in page.text


def test_page_can_load_nothing_and_run_its_own_scripts_only(page: Parsed) -> None:
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 3
    for _, attributes in page.elements:
        assert not {"src", "srcset", "style", "action", "data", "ping", "background"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"(?i)https?:|//[a-z]", page.text)
    data = json.loads(page.scripts[0])
    assert not re.search(r"(?i)https?:", page.scripts[0])
    assert len(data["charts"]) == 12


def test_charts_have_intervals_types_and_names(page: Parsed) -> None:
    charts = json.loads(page.scripts[0])["charts"]
    for name, spec in charts.items():
        assert name.startswith("g1-")
        for layer in spec["layer"]:
            for channel, given in layer["encoding"].items():
                for encoding in given if isinstance(given, list) else [given]:
                    typed = encoding.get("type") in ("quantitative", "nominal")
                    assert typed or channel in ("x2", "y2") or "value" in encoding
                    assert re.fullmatch(r"[a-z0-9_]+", encoding.get("field", "x"))
    front = charts["g1-quality-train_seconds"]
    assert any({"low", "high", "core", "standing", "label"} <= set(rows[0]) for rows in front["datasets"].values())
    assert any(
        layer["mark"]["type"] == "rule" and layer["encoding"].get("y2", {}).get("field") == "high"
        for layer in front["layer"]
    )
    assert [row["chosen"] for row in charts["g1-tuning"]["datasets"]["rows0"]].count(5) == 4


def test_tables_are_told_to_who_hears_them(page: Parsed) -> None:
    tables = [attributes for tag, attributes in page.elements if tag == "table"]
    captions = [attributes for tag, attributes in page.elements if tag == "caption"]
    headings = [attributes for tag, attributes in page.elements if tag == "th"]
    assert len(tables) == len(captions) > 8
    assert all(one["scope"] in ("col", "row") for one in headings)
    charts = [attributes for _, attributes in page.elements if "data-chart" in attributes]
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 30 for one in charts)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label"}
    assert {attributes["id"] for tag, attributes in page.elements if tag == "select"} == labelled


def test_text_from_the_data_stays_text(make_study: Any, read_back: Any, tmp_path: Path) -> None:
    method = {"name": "lora", "rank": 8, "targets": HOSTILE}
    summary = make_study(
        tmp_path,
        (({"name": "standard"}, 0.85), (method, 0.8)),
        data=(HOSTILE,),
        labels=(HOSTILE, FORMULA),
        seeds=(0, 1),
        tuned=False,
        device=HOSTILE,
        name=HOSTILE,
    )
    summary["baselines"][0]["name"] = FORMULA
    summary["failed"] = [
        {"run": "gone", "cell": "c1", "stage": "final", "status": "failed", "error": f"{HOSTILE}\x1b[31m"}
    ]
    page = write(tmp_path, read_back(summary))[0].read_text("utf8")
    parsed = Parsed(page)
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert len(parsed.scripts) == 3
    assert HOSTILE in parsed.text
    assert "\x1b" not in page
    assert "<" not in parsed.scripts[0]
    for path in (tmp_path / "figures").iterdir():
        assert "<img" not in path.read_text("utf8")
    markdown = (tmp_path / "table.md").read_text("utf8")
    assert "<img" not in markdown.replace("\\<img", "")
    with (tmp_path / "table.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.reader(file))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": (0, 1, 2)}, "Only 3 seeds finished: below 5 seeds no verdict is given."),
        ({"seeds": ()}, "No setting has a finished run yet, so there is nothing to compare."),
        ({"seeds": (0,)}, "Only 1 seed finished"),
        (
            {"levels": (({"name": "standard"}, 0.85),)},
            "One setting only, standard: there is nothing to compare it with.",
        ),
        ({"complete": False, "missing": 4}, "Not finished: 4 runs missing. Every number below can still change."),
        ({"observations": []}, "standard has the best mean accuracy"),
        ({"labels": tuple(range(14))}, "Most frequent confusions"),
    ],
)
def test_page_says_what_the_study_can_say(
    make_study: Any, page_of: PageOf, tmp_path: Path, change: Document, told: str
) -> None:
    given = {
        "levels": (({"name": "standard"}, 0.85), ({"name": "head"}, 0.7)),
        "tuned": False,
        "examples": 60,
        "units": 60,
        **change,
    }
    page = Parsed(page_of(make_study(tmp_path, **given), tmp_path))
    assert told in page.text
    if len(given.get("seeds", "01234")) < 5:
        assert not re.search("(standard|head) is better", page.text)
    if given.get("seeds") == (0, 1, 2):
        assert "no verdict" in page.text
        assert "3 seeds, fewer than 5" in page.text


@pytest.mark.parametrize("tune_seeds", ["each", "first"])
def test_of_one_seed_the_page_speaks_of_no_spread_over_seeds_and_of_no_verdicts(
    make_study: Any, page_of: PageOf, read_back: Any, tmp_path: Path, tune_seeds: str
) -> None:
    levels = (({"name": "standard"}, 0.85), ({"name": "head"}, 0.7))
    document = make_study(tmp_path, levels, seeds=(0,), examples=60, tune_seeds=tune_seeds)
    front = {"topic": "fronts", "text": "Test accuracy: no front to speak of.", "cells": ["c1", "c2"]}
    document["observations"].append(front | {"figures": {}, "verdict": None})
    text = Parsed(page_of(document, tmp_path)).text
    for said in ("over seeds", "seed 0 of", "every seed", "all seeds", "1 seeds", "for itself", "by two", "first seed"):
        assert said not in text
    assert "Learning rate: chosen on validation." in study_table(read_back(document)).notes
    for said in ("Which differences are real", "no front", "Student's t", "On the front", "Intervals of differences"):
        assert said not in text
    assert "There is one seed: another one" in text
    several = Parsed(page_of(make_study(tmp_path / "two", levels, seeds=(0, 1), examples=60), tmp_path / "two")).text
    assert "Which differences are real" in several
    assert "over seeds" in several


def test_failed_runs_are_listed_with_their_error(page_of: PageOf, summary: Document, place: Path) -> None:
    error = "out of memory on cuda at --batch-size 32"
    failed = [{"run": "c4-s9", "cell": "c4", "stage": "final", "status": "out_of_memory", "error": error}]
    cells = [{**cell, "failed": ["c4-s9"]} if cell["id"] == "c4" else cell for cell in summary["cells"]]
    page = Parsed(page_of({**summary, "failed": failed, "cells": cells}, place))
    assert "Left out of every mean: 1 run that did not complete (1 out of memory)" in page.text
    assert error in page.text
    assert "5 of 5 seeds, 1 failed run" in page.text


def test_absent_runs_are_told_and_damaged_ones_left_out(make_study: Any, page_of: PageOf, tmp_path: Path) -> None:
    summary = make_study(tmp_path, (({"name": "standard"}, 0.85), ({"name": "head"}, 0.7)), seeds=(0, 1), tuned=False)
    run = tmp_path / "runs" / "c1-s0"
    (run / "predictions.parquet").write_bytes(b"PAR1")
    assert "The directories of 1 finished run are not there, or damaged" in Parsed(page_of(summary, tmp_path)).text
    run.rename(tmp_path / "elsewhere")
    assert "The directories of 1 finished run are not there" in Parsed(page_of(summary, tmp_path)).text


def test_calibration_agrees_with_the_metric(summary: Document, read_back: Any, place: Path) -> None:
    evidence = gather(place, read_back(summary)).cells["c2"]
    one = type(evidence)(evidence.labels, evidence.histories[:1], evidence.tests[:1])
    found = sum(bin_.share * abs(bin_.accuracy - bin_.confidence) for bin_ in one.reliability)
    assert found == pytest.approx(summary["cells"][1]["quality"]["test"]["ece"]["values"][0], abs=1e-6)
    assert evidence.confusion.sum() == pytest.approx(120)


def test_texts_of_disputed_examples_stand_on_the_page_where_the_data_are_at_hand(tiny_csv: Path) -> None:
    spec = DataSpec(dataset=str(tiny_csv))
    dataset = make_dataset(spec)
    test = dataset.test
    record = RunRecord("one", "", "completed", {"data": spec.model_dump()}, dataset.record(), {}, {}, {}, {})
    right = np.eye(2, dtype=np.float32)[test.labels]
    wrong = right.copy()
    wrong[3] = wrong[3, ::-1]
    cells = {
        name: CellEvidence(("bad", "good"), (), (Predictions(test.labels, logits, test.rows, test.units),) * 2)
        for name, logits in (("c1", right), ("c2", wrong))
    }
    found = disputed(cells, record)
    assert found is not None
    assert (found.of, found.all) == (1, len(test))
    (one,) = found.examples
    assert (one.place, one.text) == (test.place(3), test.texts[3])
    assert one.place == f"line {test.rows[3] + 2}"
    assert one.right == {"c1": (2, 2), "c2": (0, 2)}
    for change in (
        {"dataset": "hub:somewhere"},
        {"dataset": "hutto:movies"},
        {"dataset": "gone.csv"},
        {"split_seed": 1},
    ):
        other = dataclasses.replace(record, spec={"data": {**record.spec["data"], **change}})
        elsewhere = disputed(cells, other)
        assert elsewhere is not None
        assert elsewhere.examples[0].text is None


def test_runs_show_the_metric_of_the_study_and_whether_weights_are_there(
    page_of: PageOf, summary: Document, place: Path
) -> None:
    page = page_of({**summary, "select": "f1_macro"}, place)
    table = Parsed(page[page.index('<table id="runs"') : page.index('id="how-title"')])
    assert "Validation macro-F1" in table.text
    assert "Test macro-F1" in table.text
    assert "accuracy" not in table.text
    assert "Data and model" not in table.text
    assert "kept" in table.text
    settings = [
        json.loads(one) for one in re.findall(r'<pre tabindex="0">(.*?)</pre>', page.replace("&#34;", '"'), re.S)
    ]
    assert len(settings) == 4
    assert all("seed" not in one and one["training"]["select"] == "f1_macro" for one in settings)


def test_a_baseline_above_every_approach_is_told_and_drawn(page_of: PageOf, summary: Document, place: Path) -> None:
    told = "TF-IDF + logistic regression reaches 99.0%, above the mean of every approach"
    assert told not in Parsed(page_of(summary, place)).text
    baselines = [{**one, "accuracy": 0.99} if one["name"].startswith("TF") else one for one in summary["baselines"]]
    page = Parsed(page_of({**summary, "baselines": baselines}, place))
    assert told in page.text
    front = json.loads(page.scripts[0])["charts"]["g1-quality-trainable"]
    lines = next(rows for rows in front["datasets"].values() if "wide_at" in rows[0])
    assert lines[0]["label"] == "TF-IDF + logistic regression"
    assert max(layer["encoding"]["y"]["scale"]["domain"][1] for layer in front["layer"]) > 0.99


def test_where_it_comes_from_is_said_in_words(page_of: PageOf, summary: Document, place: Path) -> None:
    data = {
        **summary["data"][0],
        "revision": None,
        "dropped": 0,
        "duplicates": {"all": 2},
        "overlap": {"train-test": 0},
    }
    data["class_counts"] = {"train": [3700, 3698], "test": [61, 59]}
    environment = {**summary["environment"], "deterministic": True, "engine": {"why": "x"}, "flat": None}
    page = Parsed(page_of({**summary, "data": [data], "environment": environment}, place))
    said = page.text[page.text.index("Where it comes from") :]
    assert "classes of train negative 3,700, positive 3,698" in said
    assert "repeated texts 2" in said
    assert "deterministic yes" in said
    assert not re.search(r"None|True|\[|revision|dropped|train and test", said)


def test_what_stands_beside_a_pair_says_whether_it_is_corrected(
    page: Parsed, summary: Document, read_back: Any
) -> None:
    study = read_back(summary)
    grid = pairs_grid(study, study.groups[0])
    assert grid is not None
    assert [heading.text for heading in grid.headings] == [
        *("Pair", "Difference in points; 95% interval, not corrected", "95% interval for all pairs at once"),
        *("p, Holm", "Verdict"),
    ]
    one, found = study.pairs[0], grid.rows[0].entries
    low, high, family_low, family_high = (
        comparing.points(end, "accuracy") for end in (one.low, one.high, one.family_low, one.family_high)
    )
    assert (found[1].sub, found[2].text) == (f"{low} to {high}", f"{family_low} to {family_high}")
    drawn = found[1].whisker
    assert drawn is not None
    assert drawn.outer is not None
    assert drawn.low is not None
    assert drawn.outer[0] < drawn.low
    assert "Thin line: the one for all pairs at once" in page.text
    assert "verdicts rest on these two" in page.text
    alone = dataclasses.replace(study, pairs=(dataclasses.replace(one, family=1),))
    grid = pairs_grid(alone, alone.groups[0])
    assert grid is not None
    assert [heading.text for heading in grid.headings] == ["Pair", "Difference in points; 95% interval", "p", "Verdict"]
    assert prose.MANY in prose.how(study)
    assert prose.MANY not in prose.how(alone)


def test_what_tuning_shows_is_said_to_be_what_chose(page: Parsed) -> None:
    charts = json.loads(page.scripts[0])["charts"]
    for name in ("g1-tuning", "g1-expected-best"):
        titles = {layer["encoding"].get("y", {}).get("title") for layer in charts[name]["layer"]}
        assert "Accuracy (validation, on which the rate was chosen)" in titles
    assert "(of the first seed alone; scores on validation, on which the rate was chosen)." in page.text
