"""What ships with the package index, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def packaged_rows() -> list[dict[str, str]]:
    """The packaged items: name, kind, description, licence, citation, requirement."""
    from loratory.data import PACKAGED

    keys = ("name", "kind", "description", "licence", "citation", "requirement")
    return [{key: str(getattr(item, key)) for key in keys} for item in PACKAGED.values()]


def packaged_table() -> RenderableType:
    """The packaged items, one block each."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for row in packaged_rows():
        table.add_row(
            row["name"], f"{row['kind']}: {row['description']}\nLicence: {row['licence']}\nCite: {row['citation']}"
        )
    return table
