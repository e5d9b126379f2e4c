"""Methods that train few numbers: biases, norms, scales, and ranks that are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from loratory.engine.fit import fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.errors import SettingsError
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.run import train
from loratory.spec import HardwareSpec, TrainingSpec

LABELS = ("a", "b", "c")


def test_bitfit_trains_every_bias_and_layernorm_every_norm_of_the_encoder(tiny_bert: Path, prepared: Any) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    encoder = {name for name, _ in base.model.named_parameters() if "pooler" not in name and "classifier" not in name}
    chosen = {"bitfit": lambda name: name.endswith(".bias"), "layernorm": lambda name: "LayerNorm" in name}
    for method, wanted in chosen.items():
        parts = prepared(base, method).parts
        assert {name for name, part in parts.items() if part == "unfrozen"} == set(filter(wanted, encoder))


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_scales_keys_values_and_inner_activations_of_every_layer(
    family: str, model_directory: Any, prepared: Any
) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    modules = dict(base.model.named_modules())
    layers = len(base.family.blocks(base.model))
    sizes: dict[str, int] = {}
    for name, part in prepared(base, "ia3").parts.items():
        if part == "adapter":
            sizes[name.split(".ia3_l")[0]] = base.model.get_parameter(name).numel()
    assert len(sizes) == layers * (len(base.family.keys_and_values) + 1)
    for name, size in sizes.items():
        width, turned = modules[name].weight.shape, isinstance(modules[name], Conv1D)  # (in, out) in a Conv1D
        assert size == width[name.endswith(base.family.down) != turned]


def test_adalora_cuts_ranks_down_to_their_mean_and_adds_its_penalty(
    tiny_bert: Path, labelled: Any, prepared: Any
) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b"), seed=0, dropout=0.0)
    own = {"initial_rank": 6, "target_rank": 2, "cut_every": 1}
    trainable = prepared(base, "adalora", **own)
    companion = trainable.companion
    assert companion is not None
    matrices = [p for name, p in trainable.trainable().items() if ".lora_A." in name or ".lora_B." in name]
    apart = []
    for matrix in matrices:
        square = matrix @ matrix.T if len(matrix) == 6 else matrix.T @ matrix
        apart.append(torch.linalg.norm(square - torch.eye(6)))
    torch.testing.assert_close(companion.penalty(), 0.5 * sum(apart) / len(apart))
    data, hardware = labelled([5, 9, 2, 7]), Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
    fit(
        Classifier(base.model, base.family, base.pad_id), data, None, TrainingSpec(epochs=10, batch_size=4),
        lr=0.01, seed=0, hardware=hardware, meter=Meter(hardware), score=lambda logits: {},
        better=lambda new, old: True, companion=companion,
    )  # fmt: skip
    kept = [int((p != 0).sum()) for name, p in trainable.trainable().items() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept)
    assert len(kept) == 4
    assert trainable.adapter is not None
    assert (trainable.adapter.total_step, trainable.adapter.tinit, trainable.adapter.tfinal) == (10, 1, 3)
    shapes = {tuple(t.shape) for name, t in trainable.trained_tensors().items() if "lora_E" in name}
    assert shapes == {(6, 1)}


def test_adalora_makes_its_last_cut_whatever_the_share_after_it(spec: Any, tmp_path: Path) -> None:
    own = {"initial_rank": 6, "target_rank": 2, "cut_every": 1, "after_cutting": 0, "epochs": 3, "lr": 1e-6}
    run = train(spec("adalora", **own), output=tmp_path / "run")
    weights = load_file(run.directory / "adapter_model.safetensors")
    kept = [int((tensor != 0).sum()) for name, tensor in weights.items() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept) > 0


@pytest.mark.parametrize(
    ("own", "line"),
    [({"patience": 1}, "--patience 1"), ({"keep": "best"}, "--keep best"), ({"until": 1}, "--until 1")],
)
def test_adalora_ends_with_its_last_step(own: dict[str, Any], line: str, spec: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^{line}: adalora .*; leave one of the two out$"):
        train(spec("adalora", **own), output=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
