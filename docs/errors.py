"""Write docs/errors.md: `python docs/errors.py`. Every case of tests/support/bad.py is run, and says its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from loratory import errors

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_suffix(".md")

sys.path[:0] = [path] if (path := str(ROOT / "tests" / "support")) not in sys.path else []

from bad import TABLE, Case  # noqa: E402  # it lies beside the tests

BEGIN = """# What is said when something is wrong

An error is one line on standard error: what, where, and what to do. It begins with `error: `, and no traceback follows
unless `--debug` is given. Nothing that was there is changed: what was asked for is written whole, or not at all; a
run that fails while it trains leaves a record that says why. This page is written by `python docs/errors.py`, which
gives each case to the commands.

## Exit codes
| Code | Means |
|---:|---|
| 0 | done; also where whoever read the output has left, as in `loratory compare … \\| head` |
| 1 | a defect of Loratory: an exception that it did not foresee |
"""

END = """| 130 | interrupted (Ctrl-C) |
| 143 | terminated (SIGTERM) |
"""

EXCEPTIONS = """
## Exceptions
From Python an error is an exception of `loratory`, such as `loratory.DataError`; the line is its text, and `exit_code`
what the command ends with. Whoever catches `loratory.LoratoryError` catches all of them. A signal is a
`KeyboardInterrupt`; any other exception is a defect.

| Class | Is a | Code | Means |
|---|---|---:|---|
"""

OTHERS = "…"
"""For what another library says, in its own words."""


def page(lines: Mapping[str, str]) -> str:
    """The page, with the line that each case was given."""
    codes = {one.exit_code: one.__doc__ for one in errors.LoratoryError.__subclasses__()}
    text = BEGIN + "".join(f"| {code} | {_lowered(said or '')} |\n" for code, said in sorted(codes.items())) + END
    text += exceptions()
    for heading, cases in TABLE.items():
        text += f"\n## {heading}\n| Given | Code | It says | What to do |\n|---|---:|---|---|\n"
        text += "".join(row(case, lines[case.what]) for case in cases)
    return text


def exceptions() -> str:
    """The classes that a program can catch, each with its exit code."""
    text = EXCEPTIONS
    for one in sorted(_below(errors.LoratoryError), key=lambda one: one.exit_code):
        bases = ", ".join(f"`{base.__name__}`" for base in one.__bases__)
        text += f"| `{one.__name__}` | {bases} | {one.exit_code} | {_lowered(one.__doc__ or '')} |\n"
    return text


def _below(parent: type[errors.LoratoryError]) -> Iterator[type[errors.LoratoryError]]:
    for one in parent.__subclasses__():
        yield one
        yield from _below(one)


def _lowered(said: str) -> str:
    return said.strip()[0].lower() + said.strip().rstrip(".")[1:]


def row(case: Case, line: str) -> str:
    """One case of the page."""
    said, _, remedy = line.partition("; ")
    cells = [case.what, str(case.code), _code(said), _code(remedy) if remedy else ""]
    return f"| {' | '.join(cells)} |\n"


def _code(text: str) -> str:
    marks = "``" if "`" in text else "`"
    inside = text.replace("|", "\\|")
    return f"{marks}{inside}{marks}" if marks == "`" else f"{marks} {inside} {marks}"


def shortened(case: Case, line: str, names: Mapping[str, Path]) -> str:
    """The line as the page has it: paths short, another library's words left out.

    Args:
        names: what paths are called on the page; the longest is looked for first.
    """
    for name, path in sorted(names.items(), key=lambda item: -len(str(item[1]))):
        line = line.replace(f"{path}/", f"{name}/" if name else "").replace(str(path), name or ".")
    return re.sub(case.theirs, OTHERS, line) if case.theirs else line


class Said:
    """Hears what each case's test says, for pytest."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the line of a case."""
        self.lines |= {name: str(line) for name, line in report.user_properties}


if __name__ == "__main__":
    said = Said()
    pytest.main(["-q", "-k", "one_line", str(ROOT / "tests" / "test_bad_input.py")], plugins=[said])
    PAGE.write_text(page(said.lines), encoding="utf8")
