"""What a step minimises: torch's cross-entropy, class weights and label smoothing included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loratory.data import Cut, collate
from loratory.engine.hardware import Hardware
from loratory.engine.step import Step
from loratory.methods import method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
@pytest.mark.parametrize("settings", [{"accumulate": 1}, {"accumulate": 3}], ids=["whole", "in parts"])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torchs_with_class_weights_and_smoothing(
    smoothing: float, class_weights: str, settings: dict[str, int], family: str, model_directory: Any, labelled: Any
) -> None:
    """One step of all examples: its gradient is that of torch's mean, class weights and smoothing included."""
    data = labelled(LENGTHS, classes=2)
    data.labels[:] = [0] * (len(LENGTHS) - 2) + [1, 1]
    base = load_base(str(model_directory(family)), labels=("a", "b"), seed=0, dropout=0.0)
    trainable = method_named("head").prepare(base, method_settings({"name": "head"}), seed=0)
    classifier = Classifier(base.model.train(), base.family, base.pad_id)
    batch = collate(data.tokens, data.labels, np.arange(len(LENGTHS)))
    counts = np.bincount(data.labels)
    weight = torch.tensor(len(LENGTHS) / (2 * counts), dtype=torch.float32) if class_weights == "balanced" else None
    loss = F.cross_entropy(classifier(batch), batch.labels, weight, label_smoothing=smoothing)
    free = trainable.trainable()
    expected = dict(zip(free, torch.autograd.grad(loss, list(free.values())), strict=True))
    given = {"class_weights": class_weights, "label_smoothing": smoothing, **settings}
    spec = TrainingSpec.model_validate({"batch_size": len(LENGTHS), **given})
    weights_of_classes = data.balanced(2) if class_weights == "balanced" else None
    step = Step(classifier, spec, HARDWARE, lr=0.0, total=1, class_weights=weights_of_classes)
    cut = Cut(len(LENGTHS), settings["accumulate"], class_weights=weights_of_classes)
    for part in next(iter(data.steps(np.arange(len(LENGTHS)), cut))):
        step.backward(part)
    for name, parameter in free.items():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-5)
    # a sum over examples, each times its class's weight; over their number it is torch's mean where weights' mean is 1
    assert float(step.loss) / len(LENGTHS) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_balanced_weights_count_each_class_the_same_and_one_on_average(labelled: Any) -> None:
    data = labelled([3] * 6)
    data.labels[:] = [0, 0, 0, 2, 2, 0]
    weights_of_classes = data.balanced(4)
    assert weights_of_classes == (0.75, 0.0, 1.5, 0.0)
    assert np.mean([weights_of_classes[label] for label in data.labels]) == 1
