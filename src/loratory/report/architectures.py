"""The families of models, for people: how each runs, and which methods it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loratory.methods import METHODS, refusal
from loratory.models.families import FAMILIES, Family

if TYPE_CHECKING:
    from rich.console import RenderableType

LEGEND = (
    "Layout: flat batches hold no padding. Own layers: the engine computes whole layers itself, not only their "
    "adapters. Graphs: whole steps can be captured as CUDA graphs. --quantize is for the causal ones."
)


def family_rows() -> list[dict[str, Any]]:
    """Each family: name, layout, attention, whether layers are the engine's own, steps captured as graphs and its base
    quantised, and the methods that it refuses with the reason of each. torch is not needed for it."""
    return [_row(family) for family in FAMILIES.values()]


def _row(family: Family) -> dict[str, Any]:
    refused = {name: reason for name, method in METHODS.items() if (reason := refusal(method, family)) is not None}
    return {
        "name": family.name,
        "layout": "flat" if family.flat else "padded",
        "attention": list(family.attention_kinds),
        "own_layers": family.own_layers,
        "graphs": family.flat,
        "quantize": family.causal,
        "refused": refused,
    }


def family_table() -> RenderableType:
    """The families, one line each, and below them why methods are refused; for 80 columns or more."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows = family_rows()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("Family", "Layout", "Attention", "Own layers", "Graphs", "Refused"):
        table.add_column(title)
    for row in rows:
        said = ("yes" if row[key] else "no" for key in ("own_layers", "graphs"))
        table.add_row(row["name"], row["layout"], ", ".join(row["attention"]), *said, ", ".join(row["refused"]))
    # each reason once, for all families of which it is said
    reasons = dict.fromkeys(
        reason.replace(f" {row['name']} ", " the family ") for row in rows for reason in row["refused"].values()
    )
    return Group(table, *(Padding(Text(line, style="dim"), (0, 1)) for line in (*reasons, LEGEND)))
