"""Every method on every family: it learns, and stock libraries give back its logits; or it is refused, and says why.

`python docs/support.py` runs this file and writes docs/support.md of what it finds; what stands there is checked here.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import SettingsError
from loratory.methods import METHODS, refusal
from loratory.models.families import FAMILIES
from loratory.run import train

SUPPORT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "support.py"))
"""The page's module: how it is written and read."""


@pytest.fixture
def found(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """(method, family, what was found) -> recorded for the page, and compared with what stands there."""

    def record(method: str, family: str, said: str) -> None:
        record_property(SUPPORT["KEY"], (method, family, said))
        assert SUPPORT["written"]().get((method, family)) == said, "run python docs/support.py"

    return record


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_on_a_family_or_says_why_not(
    method: str, family: str, spec: Any, model_directory: Any, tmp_path: Path, refused: Any, learnt: Any, found: Any
) -> None:
    reason = refused(method, family)
    if reason is not None:
        with pytest.raises(SettingsError, match=reason) as caught:
            train(spec(method, model=str(model_directory(family)), epochs=3), output=tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert refusal(METHODS[method], FAMILIES[family]) == str(caught.value)  # what `loratory models` says
        found(method, family, str(caught.value))
        return
    assert refusal(METHODS[method], FAMILIES[family]) is None
    counts = learnt(method, family).record.parameters
    assert counts["adapter"] + counts["head"] + counts["unfrozen"] == counts["trainable"]
    found(method, family, SUPPORT["PASSES"])


def test_the_page_has_every_method_and_family_and_no_other() -> None:
    written = SUPPORT["written"]()
    assert written.keys() == {(method, family) for method in METHODS for family in FAMILIES}
    assert SUPPORT["page"](written) == SUPPORT["PAGE"].read_text("utf8")
