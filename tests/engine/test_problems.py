"""Sets of labels and numbers in the engine: losses are transformers' own, a regression's scale ends in the head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from loratory.data import Cut, Labelled, Shape, collate
from loratory.data.batches import filled
from loratory.engine.fit import fit
from loratory.engine.graphs import Held
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.engine.step import Step
from loratory.errors import DataError
from loratory.methods import method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.models.output import Scale, output_layer
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem
from loratory.saving import APART, apart
from loratory.spec import HardwareSpec, TrainingSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]
PROBLEMS: tuple[Problem, ...] = (SINGLE, MULTI, REGRESSION)


def example(labelled: Any, problem: Problem, lengths: list[int] = LENGTHS) -> tuple[Labelled, tuple[str, ...]]:
    data, draw = labelled(lengths, classes=3), np.random.default_rng(0)
    if problem == SINGLE:
        return data, ("a", "b", "c")
    if problem == MULTI:
        return replace(data, labels=draw.integers(0, 2, (len(lengths), 3))), ("a", "b", "c")
    return replace(data, labels=draw.normal(100.0, 5.0, len(lengths))), ("price",)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_and_gradients_are_those_of_stock_transformers(
    accumulate: int, problem: Problem, model_directory: Any, labelled: Any
) -> None:
    data, names = example(labelled, problem)
    base = load_base(str(model_directory("bert")), labels=names, problem=problem, seed=0, dropout=0.0)
    classifier = Classifier(base.model.train(), base.family, base.pad_id)
    assert classifier.problem == problem
    step = Step(classifier, TrainingSpec(batch_size=12), HARDWARE, lr=0.0, total=1)
    for part in next(iter(data.steps(np.arange(12), Cut(12, accumulate)))):
        step.backward(part)
    found = {name: parameter.grad for name, parameter in step.free.items()}

    stock = load_base(
        str(model_directory("bert")), labels=names, problem=problem, seed=0, dropout=0.0, flat_tokens=False
    )
    width = max(LENGTHS)
    ids = torch.zeros(12, width, dtype=torch.int64)
    for row, (start, end) in enumerate(zip(data.tokens.offsets[:-1], data.tokens.offsets[1:], strict=True)):
        ids[row, : end - start] = torch.from_numpy(data.tokens.ids[start:end].astype(np.int64))
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    labels = torch.from_numpy(data.labels)
    out = stock.model.train()(
        input_ids=ids, attention_mask=mask.long(), labels=labels if problem == SINGLE else labels.float()
    )
    out.loss.backward()
    assert float(step.loss) / 12 == pytest.approx(float(out.loss.detach()), rel=1e-5)
    size = max(1.0, *(float(p.grad.abs().max()) for p in stock.model.parameters() if p.grad is not None))
    for name, parameter in stock.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=2e-6 * size, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "llama", "mpnet"])
@pytest.mark.parametrize("method", ["standard", "lora", "head"])
def test_a_regression_learns_numbers_far_from_zero_and_gives_them_on_their_own_scale(
    method: str, family: str, model_directory: Any, labelled: Any
) -> None:
    data, names = example(labelled, REGRESSION, LENGTHS * 2)
    base = load_base(str(model_directory(family)), labels=names, problem=REGRESSION, seed=0, dropout=0.0)
    trainable = method_named(method).prepare(base, method_settings({"name": method}), seed=0)
    classifier = Classifier(base.model, base.family, base.pad_id)
    spec = TrainingSpec(epochs=8, batch_size=8)
    scores: list[np.ndarray] = []

    def score(logits: torch.Tensor) -> dict[str, float]:
        scores.append(logits.numpy())
        return {}

    fit(
        classifier, data, data, spec, lr=0.02, seed=0, hardware=HARDWARE, meter=Meter(HARDWARE),
        score=score, better=lambda new, old: False, companion=trainable.companion,
    )  # fmt: skip
    said = predict(classifier, data, hardware=HARDWARE).numpy()
    assert np.allclose(said, scores[-1], rtol=1e-5)  # before and after the scale is folded in
    assert abs(said.mean() - 100) < 15
    padded = Classifier(base.model, base.family, base.pad_id)
    if padded.flat:
        padded.unflatten()
    assert np.allclose(predict(padded, data, hardware=HARDWARE).numpy(), said, rtol=1e-4)


def test_the_scale_of_a_layer_without_bias_has_no_mean() -> None:
    targets = np.array([3.0, 4.0, 5.0])
    assert Scale.of(targets, torch.nn.Linear(2, 1)) == Scale(4.0, pytest.approx(np.std(targets)))
    assert Scale.of(targets, torch.nn.Linear(2, 1, bias=False)) == Scale(0.0, pytest.approx(np.sqrt(50 / 3)))
    scale = Scale(4.0, 2.0)
    assert torch.equal(scale.back(scale.to(torch.tensor([8.0], dtype=torch.float64))), torch.tensor([8.0]))


def test_large_numbers_keep_their_digits_under_autocast(model_directory: Any, labelled: Any) -> None:
    data, names = example(labelled, REGRESSION)
    base = load_base(str(model_directory("bert")), labels=names, problem=REGRESSION, seed=0)
    layer = output_layer(base.model, base.family)
    Scale(10_000.0, 0.5).fold(layer)
    classifier = Classifier(base.model, base.family, base.pad_id)
    exact, rounded = (
        predict(classifier, data, hardware=Hardware(torch.device("cpu"), precision)) for precision in ("fp32", "bf16")
    )
    assert torch.allclose(exact, rounded, atol=0.1, rtol=0)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_graphs_batch_holds_labels_of_the_problem(
    problem: Problem, types: bool, model_directory: Any, labelled: Any
) -> None:
    data, names = example(labelled, problem)
    base = load_base(str(model_directory("bert")), labels=names, problem=problem, seed=0)
    classifier = Classifier(base.model, base.family, base.pad_id)
    batch = collate(data.tokens, data.labels, np.arange(5))
    shape = Shape(tokens=64, examples=8, fillers=2, longest=64)
    held = Held(shape, classifier.blank_label, torch.device("cpu"), types=types)
    if types:
        batch = replace(batch, token_type_ids=torch.arange(batch.tokens) % 2)
    given = filled(batch, shape, classifier.pad_id)
    assert ("token_type_ids" in given.tensors()) == types
    held.load(batch, classifier.pad_id)
    for name, tensor in given.tensors().items():
        assert torch.equal(held.batch.tensors()[name], tensor), name
    assert torch.equal(held.batch.labels[:5], torch.from_numpy(data.labels[:5]))


@pytest.mark.parametrize(("targets", "said"), [([1e20, 2e20], "scale them"), ([1e9, 1e9 + 1], "subtract a constant")])
def test_targets_that_fp32_does_not_tell_apart_are_refused(targets: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Scale.of(np.array(targets), torch.nn.Linear(2, 1))


def test_numbers_of_any_size_are_apart_by_a_share_of_their_spread() -> None:
    numbers = torch.tensor([[1999.0], [2000.0], [2001.0]])
    assert apart(numbers, numbers.mean() + 0 * numbers) > APART
    assert apart(numbers, numbers + 1e-4) < APART
    assert apart(numbers[:1], numbers[:1]) == 0.0
