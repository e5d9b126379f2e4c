"""Settings that do not fit a model are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from loratory.errors import SettingsError
from loratory.models.load import load_base

LABELS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("family", "method", "own", "message"),
    [
        ("bert", "lora", {"rank": 33}, "--rank 33 is above the width 32"),
        ("electra", "lora", {"rank": 17, "targets": "embeddings_project"}, "--rank 17 is above the width 16"),
        ("bert", "lora", {"targets": "qurey"}, "did you mean 'query'?"),
        ("bert", "lora", {"targets": "query,"}, "matches no layer of bert"),
        ("bert", "lora", {"targets": "classifier"}, "matches no layer of bert"),
        ("albert", "hybrid", {}, "albert shares one layer's weights"),
        ("bert", "hybrid", {"unfrozen_layers": 2}, "the model has 2 layers, so at most 1 can be unfrozen"),
        ("bert", "hybrid", {"rank": 0, "unfrozen_layers": 3}, "the model has 2 layers, so at most 2 can be unfrozen;"),
        ("bert", "hybrid", {"rank": 0, "frozen_layers": 1}, "with --rank 0 every layer below the unfrozen ones is"),
        ("bert", "lora", {"rank": 0}, "--rank 0: input should be greater than or equal to 1"),
        ("bert", "hybrid", {"targets": "layer.1.output.dense"}, "no layer is left to adapt between"),
        ("bert", "hybrid", {"frozen_layers": 1}, "no layer is left for LoRA"),
        ("bert", "lora", {"unfrozen_layers": 1}, "it belongs to hybrid"),
        ("bert", "standard", {"rank": 8}, "it belongs to lora, hybrid"),
        ("modernbert", "bitfit", {}, "modernbert has no biases"),
        ("bert", "adalora", {"initial_rank": 4, "target_rank": 4}, "leaves nothing to cut down to --target-rank 4"),
        ("bert", "adalora", {"before_cutting": 0.5, "after_cutting": 0.5}, "leave no steps to cut in"),
        ("bert", "adalora", {"targets": "word_embeddings"}, "is an embedding, and AdaLoRA adapts linear layers"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    family: str, method: str, own: dict[str, Any], message: str, model_directory: Any, prepared: Any
) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    with pytest.raises(SettingsError) as caught:
        prepared(base, method, **own)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
