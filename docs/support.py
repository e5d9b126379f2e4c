"""Write docs/support.md: which method runs on which family, as the test that trains each on each finds it.

python docs/support.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratory.methods import METHODS
from loratory.models.families import FAMILIES

PAGE = Path(__file__).with_name("support.md")
TEST = Path(__file__).parents[1] / "tests" / "methods" / "test_support.py"
KEY = "support"
"""Under which the test records a cell: method, family, what was found."""
PASSES = "yes"
FIRST = (
    "# Where methods run\n\nWritten by `python docs/support.py`, which runs `tests/methods/test_support.py`: every\n"
    "method trains a tiny random model of every family, learns, and is loaded back by stock libraries; or it is\n"
    "refused, and the reason stands below. What else a family can do: `loratory models`.\n"
)

Found = Mapping[tuple[str, str], str]
"""(method, family) -> PASSES, or why it was refused."""


def page(found: Found) -> str:
    """The whole page. A cell that was not found is a KeyError."""
    reasons: list[str] = []
    rows = []
    for family in FAMILIES:
        cells = []
        for method in METHODS:
            said = found[method, family]
            if said != PASSES:
                reasons.append(said)
                said = f"refused ({len(reasons)})"
            cells.append(said)
        rows.append(f"| {family} | {' | '.join(cells)} |")
    head = [f"| | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([FIRST, *head, *rows, "", *numbered, ""])


def written() -> dict[tuple[str, str], str]:
    """What the page says of each method on each family."""
    text = PAGE.read_text("utf8")
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, flags=re.MULTILINE))
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\|.*$", text, re.M))
    cells = {(method, row[0]): cell for row in rows for method, cell in zip(head[1:], row[1:], strict=True)}
    return {key: re.sub(r"^refused \((\d+)\)$", lambda m: reasons[m[1]], cell) for key, cell in cells.items()}


class Collected:
    """A plugin of pytest: the cells that the test records."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called for each phase of each test."""
        self.found |= {(method, family): said for key, (method, family, said) in report.user_properties if key == KEY}


def main(arguments: list[str]) -> int:
    """Run the test and write the page; `arguments` go to pytest, such as `-n 2`."""
    import pytest

    collected = Collected()
    pytest.main([str(TEST), "--no-header", "--tb=no", "-o", "addopts=--import-mode=importlib -q", *arguments],
                plugins=[collected])  # fmt: skip
    missing = [f"{method} on {family}" for method in METHODS for family in FAMILIES
               if (method, family) not in collected.found]  # fmt: skip
    if missing:
        print(f"not written: {', '.join(missing)} neither ran nor was refused", file=sys.stderr)
        return 1
    PAGE.write_text(page(collected.found), encoding="utf8")
    print(f"{PAGE} is written; cells that stood otherwise before failed above")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
