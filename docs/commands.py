"""Write docs/commands.md: every command with its arguments and flags, from the program itself, and an example of each
from the README, whose commands a test runs.

python docs/commands.py
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from loratory.cli import app
from loratory.flags import Listed, fields, whole

PAGE = Path(__file__).with_suffix(".md")
README = Path(__file__).parents[1] / "README.md"
FIRST = """# Commands

Written by `python docs/commands.py` from the program itself, and checked; the examples are the README's, in whose order
a test runs them. `loratory COMMAND --help` says the same. Hyphens and underscores both work in flags. `--debug` with
any command shows a traceback with its error, and of a study where a run or a cohort failed; `loratory --version` says
which version this is. Exit codes and errors: [errors.md](errors.md).
"""
GROUPS = {
    "run": ("Settings of a run", "What is trained, and how"),
    "data": ("Settings of data", "What is learned from, and how it is divided"),
    "training": ("Settings of training", "AdamW with linear warm-up and decay"),
    "hardware": ("Settings of hardware", "Where it runs"),
}
"""The groups that several commands share, each with its heading and what it is; a method's stand in methods.md."""

Row = tuple[str, str, str]
"""Name, default, what it is."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something: `study run`, and it, as lists show it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def page() -> str:
    """The whole page. A command of which the README has no example is a KeyError."""
    examples = dict(_examples())
    known = dict(commands(typer.main.get_command(app)))
    flags = {one.name: one for one in whole(known["train"]).params}
    shared = [
        "\n".join([f"## {title}", "", f"{what}.", "", *_table("flag", [_row(flags[name]) for name in fields(group)])])
        for group, (title, what) in GROUPS.items()
    ]
    return "\n".join([FIRST, *(_section(name, one, examples[name]) for name, one in known.items()), *shared])


def _examples() -> Iterator[tuple[str, str]]:
    """The README's first command of each kind."""
    found: dict[str, str] = {}
    for block in re.findall(r"^```sh\n(.*?)^```", README.read_text("utf8"), flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "loratory":
                found.setdefault(" ".join(words[: 2 if words[0] in ("data", "study") else 1]), line)
    return iter(found.items())


def _section(name: str, command: Any, example: str) -> str:
    parts = [f"## {name}", "", command.help, "", "```sh", example, "```", ""]
    own = {one.name for one in command.own} if isinstance(command, Listed) else None
    parameters = [one for one in whole(command).params if own is None or one.name in own]
    parts += _table("argument", [_row(one) for one in parameters if one.param_type_name == "argument"])
    parts += _table("flag", [_row(one) for one in parameters if one.param_type_name == "option"])
    if isinstance(command, Listed):
        links = [f"[{GROUPS[one][0].lower()}](#{_anchor(GROUPS[one][0])})" for one in command.groups if one in GROUPS]
        links += ["the settings of its [method](methods.md)"] if "method" in command.groups else []
        parts += [f"And {', '.join(links)}.", ""]
    return "\n".join(parts)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _row(parameter: Any) -> Row:
    said = parameter.help or ""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`", "" if not parameter.required else "*required*", said
    found = re.fullmatch(r"(.*) \[([^\[\]]+)\]", said, flags=re.DOTALL)  # the default, as help texts end
    said, default = found.groups() if found else (said, _default(parameter))
    value = f" {parameter.metavar}" if parameter.metavar else ""
    names = ", ".join(f"`{flag}{value}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    return names, default, said


def _default(parameter: Any) -> str:
    if parameter.required:
        return "*required*"
    if parameter.is_flag:
        return "on" if parameter.default else "off"
    return "" if parameter.default in (None, "") else f"{parameter.default}"


def _table(kind: str, rows: Iterable[Row]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [f"| {kind} | default | |", "|---|---|---|", *lines, ""] if lines else []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
