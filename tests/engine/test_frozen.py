"""A frozen bottom that runs once gives what it gives at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loratory.engine import frozen
from loratory.engine.fit import FitResult, fit
from loratory.engine.frozen import Bottom
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods import method_named, method_settings
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

FLAT = [name for name, family in FAMILIES.items() if family.flat]
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]
HYBRID = {"name": "hybrid", "rank": 2, "frozen_layers": 1}
CASES = [("head", family) for family in FLAT] + [("hybrid", family) for family in FLAT if family != "albert"]


def classifier(directory: Path, method: str, **training: Any) -> Classifier:
    settings = method_settings(HYBRID if method == "hybrid" else {"name": method})
    base = load_base(str(directory), labels=("a", "b"), seed=0, **training)
    method_named(method).prepare(base, settings, seed=0)
    return Classifier(base.model, base.family, base.pad_id)


def three_layers(family: str) -> dict[str, Any]:
    return (
        {} if family in ("albert", "modernbert") else {"n_layers" if family == "distilbert" else "num_hidden_layers": 3}
    )


def trained(
    one: Classifier, data: Any, *, precision: str = "fp32", **settings: Any
) -> tuple[FitResult, list[Tensor], Meter]:
    """Two epochs; what fit says, validation's logits after each epoch, and the meter."""
    hardware = Hardware.of(HardwareSpec.model_validate({"device": "cpu", "precision": precision}))
    meter = Meter(hardware)
    logits: list[Tensor] = []

    def score(found: Tensor) -> dict[str, float]:
        logits.append(found)
        return {}

    result = fit(
        one, data, data, TrainingSpec(epochs=2, batch_size=4, **settings), lr=0.01, seed=0, hardware=hardware,
        meter=meter, score=score, better=lambda new, old: True,
    )  # fmt: skip
    return result, logits, meter


@pytest.mark.parametrize(("method", "family"), CASES)
def test_training_above_kept_rows_is_training_with_the_bottom_run_every_time(
    method: str, family: str, model_directory: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, directory = labelled(LENGTHS), model_directory(family, **three_layers(family))
    kept, logits, _ = trained(classifier(directory, method, dropout=0.0), data)
    said = kept.engine["frozen_bottom"]
    assert said["layers"] == ("all" if method == "head" else 1)
    assert said["kept_bytes"] == 2 * 4 * 32 * (len(LENGTHS) if method == "head" else sum(LENGTHS))
    monkeypatch.setattr(Bottom, "of", lambda model, family: None)
    whole, expected, _ = trained(classifier(directory, method, dropout=0.0), data)
    assert "frozen_bottom" not in whole.engine
    for one, other in zip(logits, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert [row["loss"] for row in kept.history] == pytest.approx([row["loss"] for row in whole.history], rel=1e-5)


@pytest.mark.parametrize("method", ["head", "hybrid"])
def test_the_bottom_runs_once_on_each_text_and_dropout_is_off_in_it(
    method: str, model_directory: Any, labelled: Any
) -> None:
    one = classifier(model_directory("bert", num_hidden_layers=3), method, dropout=0.5)
    first = one.model.get_submodule("bert.encoder.layer.0")
    tokens: list[int] = []
    modes: list[bool] = []

    def ran(module: Any, inputs: Any) -> None:
        tokens.append(inputs[0].shape[1])
        modes.append(module.training)

    one.model.get_submodule("bert.embeddings.LayerNorm").register_forward_pre_hook(ran)
    _, _, meter = trained(one, labelled(LENGTHS))
    assert sum(tokens) == 2 * (sum(LENGTHS) + -sum(LENGTHS) % 32)  # training's texts and validation's, one batch each
    assert not any(modes)
    assert meter.tokens == 2 * sum(LENGTHS)
    assert "forward" not in vars(first)  # computes by itself again
    assert "forward" not in vars(one.model.get_submodule("bert.embeddings"))


def test_rows_that_memory_does_not_hold_lie_in_a_mapped_file_while_training_lasts(
    model_directory: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory, data = model_directory("bert", num_hidden_layers=3), labelled(LENGTHS)
    for precision in ("fp32", "bf16"):
        _, expected, _ = trained(classifier(directory, "hybrid"), data, precision=precision)
        with monkeypatch.context() as patch:
            patch.setattr(frozen, "SHARE", 0.0)
            patch.setattr("tempfile.tempdir", str(tmp_path))
            result, logits, _ = trained(classifier(directory, "hybrid"), data, precision=precision)
        assert result.engine["frozen_bottom"]["kept"] == "in a mapped file"
        assert all(torch.equal(one, other) for one, other in zip(logits, expected, strict=True))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in FLAT])
def test_where_the_family_runs_padded_dropout_is_off_in_the_frozen_bottom_all_the_same(
    family: str, model_directory: Any, labelled: Any
) -> None:
    one = classifier(model_directory(family), "head", dropout=0.5)
    inside = one.family.encoder(one.model).get_submodule("encoder.layer.0")
    modes: list[bool] = []
    inside.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    result, _, _ = trained(one, labelled(LENGTHS))
    assert len(modes) > 4
    assert not any(modes)
    said = result.engine["frozen_bottom"]
    assert said == {"layers": "all", "dropout": 0.0, "kept_bytes": 0, "kept": "nowhere: batches run padded"}


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_there_is_no_frozen_bottom_where_the_first_layer_is_trained(method: str, tiny_bert: Any, labelled: Any) -> None:
    one = classifier(tiny_bert, method)
    assert Bottom.of(one.model, one.family) is None
    assert "frozen_bottom" not in trained(one, labelled(LENGTHS))[0].engine
