"""Every method on every family: it learns, and stock libraries give back its logits; or it is refused, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import SettingsError
from loratory.methods import METHODS
from loratory.models.families import FAMILIES
from loratory.run import train


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_on_a_family_or_says_why_not(
    method: str, family: str, spec: Any, model_directory: Any, tmp_path: Path, refused: Any
) -> None:
    chosen = spec(method, model=str(model_directory(family)), epochs=3)
    reason = refused(method, family)
    if reason is not None:
        with pytest.raises(SettingsError, match=reason) as caught:
            train(chosen, output=tmp_path / "run")
        assert "\n" not in str(caught.value)
        return
    run = train(chosen, output=tmp_path / "run")  # which loads back what it saved, and compares
    losses = [json.loads(line)["loss"] for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    counts = run.record.parameters
    assert counts["adapter"] + counts["head"] + counts["unfrozen"] == counts["trainable"]
