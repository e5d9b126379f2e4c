"""What a study leaves for people: table.md, table.csv, figures/*.svg and report.html, from its summary and its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from loratory.disk.files import write_durably
from loratory.errors import StorageError
from loratory.inputs import Inputs
from loratory.report import theme
from loratory.report.charts import Chart
from loratory.report.evidence import gather
from loratory.report.study_table import study_table
from loratory.study.document import Summary
from loratory.study.layout import FIGURES

PAGE = "report.html"


def write(directory: Path, summary: Summary, inputs: Inputs | None = None) -> list[Path]:
    """Write the report of the study in `directory`, over an older one; each file is whole or as it was.

    Figures of an older report that this one does not have are removed.

    Args:
        inputs: what was read for the study before.

    Returns:
        The files written: the page first, then tables, then figures.

    Raises:
        ResourceError: a package that charts need is not installed.
        StorageError: a run's file is damaged, or a file cannot be written.
    """
    theme.require_packages()
    from loratory.report.drawing import draw
    from loratory.report.page import render
    from loratory.report.sizes import over_sizes

    evidence = gather(directory, summary, inputs)
    table = study_table(summary)
    drawn = {group.key: draw(summary, group, evidence.of(group.cells)) for group in summary.groups}
    files = {
        directory / PAGE: render(summary, evidence, drawn),
        directory / "table.md": table.to_markdown(),
        directory / "table.csv": table.to_csv(),
    }
    for group in summary.groups:
        name = f"{group.data}-{group.model}" + (f"-{group.limit or 'all'}" if summary.sized else "")
        prefix = f"{_slug(name)}-" if len(summary.groups) > 1 else ""
        for chart in drawn[group.key].all:
            files[_free(directory / FIGURES / f"{prefix}{chart.name}.svg", files, group.key)] = svg(chart)
    sized = over_sizes(summary)
    for one in sized:
        prefix = f"{_slug(one.title.replace(' with ', '-'))}-" if len(sized) > 1 else ""
        files[_free(directory / FIGURES / f"{prefix}{one.chart.name}.svg", files, one.key)] = svg(one.chart)
    _clear_figures(directory / FIGURES, files)
    for path, content in files.items():
        write_durably(path, content)
    return list(files)


def svg(chart: Chart) -> str:
    """The chart as a picture in a file of its own, in light colours, with generic fonts and no reference outside."""
    import vl_convert

    spec = theme.on_paper({**chart.spec, "config": {**theme.config(), "background": theme.color("paper")}})
    content: str = vl_convert.vegalite_to_svg(json.dumps(spec), allowed_base_urls=[])
    return content + "\n"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "study"


def _free(path: Path, taken: Mapping[Path, str], key: str) -> Path:
    """`path`, or with the group's key where two names read alike."""
    return path if path not in taken else path.with_name(f"{key}-{path.name}")


def _clear_figures(folder: Path, files: Mapping[Path, str]) -> None:
    try:
        for path in folder.glob("*.svg"):
            if path not in files:
                path.unlink()
    except OSError as error:
        raise StorageError(f"cannot remove {error.filename}, of an older report: {error.strerror}") from error
