"""What the page says of rates, limits and disputed examples, in words."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from loratory.evaluation.predictions import Predictions
from loratory.report import choosing, closer, prose
from loratory.report.disagreement import Disagreement, Disputed
from loratory.report.evidence import CellEvidence
from loratory.report.study_table import LEFT_OVER, study_table

Document = dict[str, Any]


def with_rates(cell: Document, chosen: list[int], tried: int = 4) -> Document:
    """The cell with a choice a seed: the position of each one's rate among those tried."""
    trials = [{"lr": 1e-4 * 2**n, "score": 0.8, "status": "completed", "run": f"x{n}"} for n in range(tried)]
    choices = [
        {"seeds": [seed], "lr": trials[at]["lr"], "selection": "feed", "trials": trials, "hopeless": False}
        for seed, at in enumerate(chosen)
    ]
    return {**cell, "tuning": {"choices": choices, "rates": [], "expected_best": []}}


def test_cells_that_chose_at_the_edge_are_named_worst_first(summary: Document, read_back: Any) -> None:
    edges = ([1, 1, 1, 1, 0], [0, 0, 3, 1, 1], [1] * 5, [3] * 5)
    cells = [with_rates(cell, chosen) for cell, chosen in zip(summary["cells"], edges, strict=True)]
    said = " ".join(prose.limits(read_back({**summary, "cells": cells})))
    assert "tried (head: 5 of 5 seeds, lora r=1 attention: 3 of 5 seeds and standard: 1 of 5 seeds): a wider" in said
    more = [with_rates({**cell, "id": f"{cell['id']}b", "data": "hutto:tweets"}, [0] * 5) for cell in cells]
    said = " ".join(prose.limits(read_back({**summary, "cells": [*cells, *more]})))
    assert "(hutto:movies, head: 5 of 5 seeds; hutto:tweets, standard: 5 of 5 seeds; " in said
    assert "and 3 further cells): a wider" in said
    two = [with_rates(cell, [0, 1, 1, 1, 1], tried=2) for cell in summary["cells"]]
    assert "smallest or largest" not in " ".join(prose.limits(read_back({**summary, "cells": two})))


def test_scores_of_seeds_that_chose_for_themselves_are_means_over_them(summary: Document, read_back: Any) -> None:
    cells = [with_rates(cell, [1, 1, 2, 1, 1]) for cell in summary["cells"]]
    for cell in cells:
        cell["tuning"]["expected_best"] = [{"trials": 1, "score": 0.8}]
    study = read_back({**summary, "tune_seeds": "each", "cells": cells})
    assert "(mean over 5 seeds; scores" in choosing.expected_best_said(study, study.groups[0])


def test_scores_of_classes_say_of_how_many_seeds(summary: Document, read_back: Any) -> None:
    group = read_back(summary).groups[0]
    labels = np.array([0, 1, 1])
    test = Predictions(labels, np.eye(2, dtype=np.float32)[labels], np.arange(3), np.arange(3))
    for seeds, said in ((3, ", all predictions of 3 seeds together"), (1, "")):
        evidence = CellEvidence(("bad", "good"), (), (test,) * seeds)
        grid = closer.classes_grid(group, group.cells[0], evidence)
        assert grid.caption == f"Each class on the test split{said}"


def test_disputed_examples_list_many_approaches_by_family(summary: Document, read_back: Any) -> None:
    group = read_back(summary).groups[0]
    right = {"c1": (5, 5), "c2": (0, 5), "c3": (0, 5), "c4": (2, 5)}
    found = Disagreement((Disputed("line 7", "bad", right, "so so"),), 1, 120)
    few = closer.disagreement_grid(group, found)
    assert [heading.text for heading in few.headings][:2] == ["Text and label", "standard"]
    assert [entry.text for entry in few.rows[0].entries] == ["so so", "5 of 5", "0 of 5", "0 of 5", "2 of 5"]
    assert few.rows[0].entries[0].sub == "bad; line 7"
    more = dataclasses.replace(group, cells=(*group.cells, dataclasses.replace(group.cells[3], id="c5", approach="h2")))
    many = closer.disagreement_grid(
        more, Disagreement((dataclasses.replace(found.examples[0], right={**right, "c5": (5, 5)}),), 1, 120)
    )
    assert [heading.text for heading in many.headings] == ["Text and label", "Right with every seed", "Right with none"]
    _, every, none = many.rows[0].entries
    assert every.text.startswith("standard; head")
    assert (every.sub, none.text, none.sub) == ("2 of 5", "lora attention: r=1, r=8", "2 of 5")


def test_limits_name_left_over_memory(summary: Document, read_back: Any) -> None:
    plain = " ".join(prose.limits(read_back(summary)))
    assert LEFT_OVER not in plain
    cells = json.loads(json.dumps(summary["cells"]))
    for cell in cells:
        cell["cost"]["peak_memory_bytes"]["kind"] = "resident"
    study = read_back({**summary, "cells": cells})
    said = " ".join(prose.limits(study))
    assert LEFT_OVER in said
    assert LEFT_OVER in study_table(study).notes


def test_limits_say_where_cells_were_computed_otherwise(summary: Document, read_back: Any) -> None:
    same = [{**cell, "own_layers": 6} for cell in summary["cells"]]
    said = " ".join(prose.limits(read_back({**summary, "cells": same})))
    assert "Stock modules" not in said
    assert "without dropout" not in said
    first, second, *others = same
    cells = [{**first, "own_layers": 0}, {**second, "frozen_bottom": True}, *others]
    said = " ".join(prose.limits(read_back({**summary, "cells": cells})))
    assert f"Stock modules compute the layers of {first['approach']}, the engine itself those of the others" in said
    assert f"run once, without dropout, in {second['approach']}; elsewhere dropout is on" in said
