"""`report.html`: the study on one page that needs nothing else.

Everything stands inside: style, script, Vega's bundle, data. The page's own policy lets run the scripts whose hashes it
names, and load nothing. Text from the data passes Jinja's escaping, or stands in JSON without a `<`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from loratory import __version__, units
from loratory.problems import REGRESSION, SINGLE
from loratory.report import axes, choosing, closer, comparing, data_seen, prose, provenance, said, sizes, theme
from loratory.report.disagreement import Disagreement, disputed
from loratory.report.drawing import Drawn, bar_said
from loratory.report.evidence import Evidence
from loratory.report.findings import ROWS_SAID
from loratory.report.grids import Grid
from loratory.report.study_table import no_totals, runs_of
from loratory.study.document import Group, Summary
from loratory.study.parts import CellSummary

PACKAGE = "loratory.report"

LONG = 22
"""Letters of the longest word that no line break divides."""


@dataclass(frozen=True)
class CellView:
    """One cell seen closely; the grids are None where its runs are not there."""

    cell: CellSummary
    there: bool
    """Whether its runs are."""
    confusion: Grid | None
    """None also where labels are not single."""
    classes: Grid | None
    """None also of a regression."""
    settings: str


@dataclass(frozen=True)
class GroupView:
    """Everything about one data set and model."""

    group: Group
    drawn: Drawn
    table: Grid
    no_totals: str
    """Why some of its cells have no total time; empty where all have."""
    intervals: bool
    pairs: Grid | None
    together: bool
    """Whether pairs have an interval for all of them at once beside their own."""
    against: str
    costs: Grid
    expected_best_said: str
    said: list[said.Question]
    cells: list[CellView]
    disputed: Grid | None
    disputed_of: str
    how_to_find: str


def render(study: Summary, evidence: Evidence, drawn: Mapping[str, Drawn]) -> str:
    """The page as one HTML document.

    Args:
        drawn: each group's charts, by the group's key.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["pieces"] = pieces
    environment.filters["printable"] = lambda text: units.printable(str(text))
    environment.filters["one_line"] = data_seen.one_line
    style = _source(environment, "page.css")
    scripts = {"bundle": bundle(), "page": _source(environment, "page.js")}
    groups = [_group_view(study, group, evidence, drawn[group.key]) for group in study.groups]
    charts = {f"{view.group.key}-{chart.name}": chart.spec for view in groups for chart in view.drawn.all}
    sized = sizes.over_sizes(study)
    charts |= {f"{one.key}-{one.chart.name}": one.chart.spec for one in sized}
    return environment.get_template("page.html.j2").render(
        study=study,
        groups=groups,
        answers=prose.answers(study),
        facts=prose.facts(study),
        alerts=prose.alerts(study, evidence),
        how=prose.how(study),
        limits=prose.limits(study),
        tuning_said=choosing.tuning_said(study),
        price_said=prose.price_said(study, evidence),
        axis_titles=axes.COSTS,
        bar_said=bar_said,
        over_data=comparing.over_data(study),
        sizes=sized,
        interval_of="intervals over seeds" if study.folds is None else "intervals over folds",
        runs_of=runs_of(study),
        tuned=any(cell.tuning.trials for cell in study.cells),
        intervals=any(view.intervals for view in groups),
        data_seen=data_seen.data_seen(study, evidence),
        runs=closer.runs_grid(study, evidence),
        machine=provenance.machine(study),
        data_sets=provenance.data_sets(study),
        version=__version__,
        style=style,
        scripts=scripts,
        data=_json({"config": theme.config(), "charts": charts}),
        policy=policy(style, list(scripts.values())),
    )


def _group_view(study: Summary, group: Group, evidence: Evidence, drawn: Drawn) -> GroupView:
    found = evidence.of(group.cells)
    cells = []
    for cell in group.cells:
        one = found.get(cell.id)
        confusion = classes = None
        if one is not None and one.problem == SINGLE:
            confusion = closer.confusion_grid(group, cell, one)
        if one is not None and one.problem != REGRESSION:
            classes = closer.classes_grid(group, cell, one)
        cells.append(CellView(cell, one is not None, confusion, classes, closer.settings_of(study, cell, evidence)))
    record = next((evidence.records[n] for cell in group.cells for n in cell.runs if n in evidence.records), None)
    split = disputed(found, record, evidence.inputs.dataset) if record is not None else None
    return GroupView(
        group=group,
        drawn=drawn,
        table=comparing.quality_grid(study, group),
        no_totals="".join(no_totals(study, group.cells)),
        intervals=any(m.low is not None for c in group.cells if (m := c.score(study.select)) is not None),
        pairs=comparing.pairs_grid(study, group),
        together=any(p.family > 1 and p.family_low is not None for p in study.pairs if p.a in group.ids),
        against=_reference(group),
        expected_best_said=choosing.expected_best_said(study, group),
        costs=comparing.cost_numbers(study, group),
        said=said.questions(study, group),
        cells=cells,
        disputed=closer.disagreement_grid(group, split) if split is not None and split.examples else None,
        disputed_of="" if split is None else f"{split.of:,} of {split.all:,}",
        how_to_find=_how_to_find(group, split),
    )


def _reference(group: Group) -> str:
    """The cell whose pairs are shown first: standard fine-tuning, else the first; all pairs where they are few."""
    if len(group.cells) < 4:
        return ""
    return next((cell for cell in group.cells if cell.method.get("name") == "standard"), group.cells[0]).id


def _how_to_find(group: Group, found: Disagreement | None) -> str:
    if found is None or any(one.text is not None for one in found.examples):
        return f"{ROWS_SAID} The texts are copied from {group.data}."
    return (
        "Rows count from 1, header and blank lines not counted: with pandas, pandas.read_csv(...).iloc[row - 1]. The "
        f"texts are not here because {group.data} was not at hand without network when this page was written."
    )


def pieces(text: str) -> list[tuple[str, bool]]:
    """The text in pieces: words with a sign at which a browser would break them are to stay whole, unless long."""
    found = re.split(r"(\S+)", text)
    return [(one, 1 < len(one) <= LONG and re.search(r"\w\W|\W\w", one) is not None) for one in found if one]


@cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the vl-convert that is installed; about 0.9 MiB."""
    import vl_convert

    code: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets that there is a default
    # an end tag or a comment's start inside a string would end the element or change how it is read
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


def policy(style: str, scripts: list[str]) -> str:
    """The page's Content-Security-Policy: this style and these scripts, and nothing from anywhere."""
    hashes = " ".join(f"'{_digest(script)}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _source(environment: Any, name: str) -> str:
    """The text of a template, unrendered, framed as it will stand in its element."""
    source, _, _ = environment.loader.get_source(environment, name)
    return str(source)


def _json(document: Any) -> str:
    """JSON for a `<script>` element: without `<`, which alone could end it."""
    text = json.dumps(_rounded(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _rounded(value: Any) -> Any:
    """Numbers with six digits: more than a chart can show."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
