"""The loop does what a plain padded loop of stock parts does, and gives the same weights every time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from loratory.data import Batch, Cut, Labelled, epoch_order
from loratory.engine.epoch import FIRST_LOOKS
from loratory.engine.fit import FitResult, fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.engine.step import linear_schedule
from loratory.errors import DivergedError
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.flat import ROUNDED, Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]
LR = 0.01


class Recording(Classifier):
    """A classifier that remembers the batches it was trained on."""

    seen: list[list[int]]

    def __call__(self, batch: Batch) -> Tensor:
        if self.model.training and torch.is_grad_enabled():
            self.seen.append(batch.input_ids.tolist())
        return super().__call__(batch)


def prepared(directory: Any, method: str = "standard", *, dropout: float = 0.0) -> tuple[Recording, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b"), seed=0, dropout=dropout)
    trainable = method_named(method).prepare(base, method_settings({"name": method}), seed=0)
    classifier = Recording(base.model, base.family, base.pad_id)
    object.__setattr__(classifier, "seen", [])
    return classifier, trainable


def fitted(
    classifier: Classifier,
    data: Labelled,
    *,
    seed: int = 0,
    lr: float = LR,
    scores: Iterable[float] = (),
    meter: Meter | None = None,
    **settings: Any,
) -> FitResult:
    given = iter(scores)
    return fit(
        classifier,
        data,
        data,
        TrainingSpec(**{"epochs": 1, "batch_size": 4, **settings}),
        lr=lr,
        seed=seed,
        hardware=HARDWARE,
        meter=meter or Meter(HARDWARE),
        score=lambda logits: {"score": next(given, 0.0)},
        better=lambda new, old: new["score"] > old["score"],
    )


def weights(trainable: TrainableModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable.trainable().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("parts", [2, 4, 5])
def test_a_batch_computed_in_parts_gives_the_same_weights(parts: int, tiny_bert: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)
    results = []
    for accumulate in (1, parts):
        classifier, trainable = prepared(tiny_bert)
        # a small rate and few steps: AdamW turns the rounding of a tiny gradient into a whole step
        history = fitted(classifier, data, lr=1e-3, batch_size=8, accumulate=accumulate, epochs=2).history
        results.append((history, weights(trainable), len(classifier.seen)))
    (whole_history, whole, _), (history, divided, batches) = results
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in whole_history], abs=1e-5)
    assert batches > len(history) * 2
    for name, value in whole.items():
        if "key.bias" not in name:  # its true gradient is zero: softmax does not see a shift of all scores
            torch.testing.assert_close(divided[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_training_until_an_epoch_is_the_beginning_of_the_whole_run(method: str, tiny_bert: Any, labelled: Any) -> None:
    data, found = labelled(LENGTHS), []
    for until in (None, 2):
        classifier, _ = prepared(tiny_bert, method, dropout=0.2)
        meter, scores = Meter(HARDWARE), [0.3, 0.2, 0.1, 0.4]
        result = fitted(
            classifier, data, meter=meter, scores=scores, epochs=4, until=until, keep="best", patience=2, lr=1e-3
        )
        rows = [{key: value for key, value in row.items() if key != "train_seconds"} for row in result.history]
        found.append((rows, meter.examples, meter.tokens, classifier.seen, result.best_epoch))
    (whole, examples, tokens, seen, _), (rows, some, few, begun, best) = found
    assert (len(whole), len(rows), best) == (3, 2, 1)
    assert rows == whole[:2]
    assert (some * 3, few * 3) == (examples * 2, tokens * 2)
    assert begun[1:] == seen[1 : len(begun)]  # the first is the largest, of which the memory is measured


def test_all_epochs_are_asked_for_in_one_way() -> None:
    assert TrainingSpec(epochs=3, until=3) == TrainingSpec(epochs=3)
    assert (TrainingSpec(epochs=3).last_epoch, TrainingSpec(epochs=3, until=2).last_epoch) == (3, 2)


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(method: str, tiny_bert: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)

    def run(seed: int) -> dict[str, Tensor]:
        classifier, trainable = prepared(tiny_bert, method, dropout=0.2)
        fitted(classifier, data, seed=seed, epochs=2)
        return weights(trainable)

    first = run(0)
    torch.rand(7)  # the state of the global generator is no part of a run
    assert same(first, run(0))
    assert not same(first, run(1))


def test_the_order_of_the_data_depends_on_the_seed_alone(tiny_bert: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)

    def seen(method: str, seed: int, **settings: Any) -> list[list[int]]:
        classifier, _ = prepared(tiny_bert, method, dropout=settings.pop("dropout", 0.0))
        fitted(classifier, data, seed=seed, epochs=2, **settings)
        return classifier.seen[1:]  # the first batch was looked at for its memory

    first = seen("standard", 0)
    np.random.rand(3)
    torch.rand(3)
    assert first == seen("lora", 0, lr=1e-4, dropout=0.3, attention_dropout=0.1)
    assert first != seen("standard", 1)
    assert first[:3] != first[3:]  # each epoch has an order of its own
    joined = [token for batch in first[:3] for token in batch]
    assert sorted(joined) == sorted(data.tokens.ids.tolist())  # and sees each example once


def test_a_run_leaves_the_global_generators_as_they_were(tiny_bert: Any, labelled: Any) -> None:
    classifier, _ = prepared(tiny_bert, dropout=0.3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    fitted(classifier, labelled(LENGTHS))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    ("scores", "best"), [([0.1, 0.9, 0.5], 2), ([0.9, 0.9, 0.1], 1), ([0.1, 0.2, 0.3], 3)], ids=str
)
def test_the_best_epochs_weights_are_kept_where_the_spec_says_so(
    scores: list[float], best: int, tiny_bert: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS)
    classifier, trainable = prepared(tiny_bert)
    at_epoch: list[dict[str, Tensor]] = []

    def score(logits: Tensor) -> dict[str, float]:
        at_epoch.append(weights(trainable))
        return {"score": scores[len(at_epoch) - 1]}

    result = fit(
        classifier,
        data,
        data,
        TrainingSpec(epochs=3, batch_size=4, keep="best"),
        lr=LR,
        seed=0,
        hardware=HARDWARE,
        meter=Meter(HARDWARE),
        score=score,
        better=lambda new, old: new["score"] > old["score"],
    )
    assert result.best_epoch == best
    assert [same(weights(trainable), state) for state in at_epoch] == [epoch == best for epoch in (1, 2, 3)]
    assert [row["score"] for row in result.history] == scores


def test_the_last_epochs_weights_are_kept_otherwise(tiny_bert: Any, labelled: Any) -> None:
    classifier, _ = prepared(tiny_bert)
    assert fitted(classifier, labelled(LENGTHS), epochs=3, scores=[0.9, 0.1, 0.1]).best_epoch == 3


@pytest.mark.parametrize("method", ["lora", "hybrid", "head"])
def test_frozen_weights_do_not_move(method: str, tiny_bert: Any, labelled: Any) -> None:
    classifier, trainable = prepared(tiny_bert, method)
    before = {name: parameter.detach().clone() for name, parameter in classifier.model.named_parameters()}
    fitted(classifier, labelled(LENGTHS), epochs=2)
    moved = {
        name for name, parameter in classifier.model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert moved == set(trainable.parts)


def test_a_loss_that_is_no_number_ends_the_run(tiny_bert: Any, labelled: Any) -> None:
    classifier, _ = prepared(tiny_bert)
    with pytest.raises(DivergedError, match=r"epoch \d+ \(step \d+\); use a smaller --lr"):
        fitted(classifier, labelled(LENGTHS), lr=1e38, epochs=4, max_grad_norm=0.0)


def test_a_loss_that_is_no_number_is_met_before_the_epoch_ends(tiny_bert: Any, labelled: Any) -> None:
    classifier, _ = prepared(tiny_bert)
    meter = Meter(HARDWARE)
    with pytest.raises(DivergedError):
        fitted(classifier, labelled([3] * 80), lr=1e38, batch_size=1, max_grad_norm=0.0, meter=meter)
    assert meter.steps == FIRST_LOOKS[1]  # at the second step the rate is still rising from 0


@pytest.mark.parametrize(("total", "warmup"), [(10, 0.06), (100, 0.06), (7, 0.0), (5, 1.0), (1, 0.06), (33, 0.1)])
def test_the_schedule_is_that_of_transformers(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    stock = get_linear_schedule_with_warmup(optimizer, math.ceil(total * warmup), total)
    factor = linear_schedule(total, warmup=warmup)
    assert [factor(step) for step in range(total + 2)] == [stock.lr_lambdas[0](step) for step in range(total + 2)]


@pytest.mark.parametrize("tokens", [8192, 16, 1])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_predictions_stand_in_the_order_of_the_data(
    family: str, tokens: int, model_directory: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS)
    classifier, _ = prepared(model_directory(family))
    logits = predict(classifier, data, hardware=HARDWARE, tokens=tokens)
    with torch.no_grad():
        alone = torch.cat([classifier(batch) for (batch,) in data.steps(np.arange(len(LENGTHS)), Cut(1))])
    assert (logits.dtype, logits.shape) == (torch.float32, (len(LENGTHS), 2))
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(predict(classifier, data.first(3), hardware=HARDWARE, tokens=1), alone[:3])


def test_the_first_examples_are_the_first_or_all(labelled: Any) -> None:
    data = labelled(LENGTHS)
    assert data.first(3).tokens.lengths.tolist() == LENGTHS[:3]
    assert data.first(3).labels.tolist() == data.labels[:3].tolist()
    assert data.first(99).tokens.ids.tolist() == data.tokens.ids.tolist()


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_the_meter_counts_what_the_loop_did(family: str, model_directory: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)
    classifier, _ = prepared(model_directory(family))
    meter = Meter(HARDWARE)
    fitted(classifier, data, epochs=2, batch_size=5, meter=meter)
    cost = meter.record()
    assert (cost["steps"], cost["examples"], cost["tokens"]) == (6, 2 * len(LENGTHS), 2 * sum(LENGTHS))
    if family == "bert":
        assert cost["tokens"] <= cost["padded_tokens"] < cost["tokens"] + ROUNDED * cost["steps"]
        assert cost["padded_tokens"] % ROUNDED == 0
    else:
        orders = [epoch_order(len(LENGTHS), 0, epoch) for epoch in (1, 2)]
        lengths = [np.array(LENGTHS)[order[start : start + 5]] for order in orders for start in (0, 5, 10)]
        assert cost["padded_tokens"] == sum(len(batch) * batch.max() for batch in lengths)
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["train_seconds"])


def test_validation_sees_the_weights_after_the_epochs_last_step(tiny_bert: Any, labelled: Any) -> None:
    """In bf16 copies of the weights stand for them in products: validation must not score those of a step before."""
    classifier, _ = prepared(tiny_bert)
    data = labelled(LENGTHS)
    hardware = Hardware.of(HardwareSpec(device="cpu", precision="bf16"))
    seen: list[Tensor] = []

    def score(logits: Tensor) -> dict[str, float]:
        seen.append(logits)
        return {"validation_accuracy": 0.0}

    spec = TrainingSpec(epochs=1, batch_size=4, lr=0.05, warmup=0.0)
    fit(
        classifier, data, data, spec, lr=0.05, seed=0, hardware=hardware, meter=Meter(hardware), score=score,
        better=lambda new, old: False,
    )  # fmt: skip
    after = predict(classifier, data, hardware=hardware)
    assert torch.isfinite(after).all()
    torch.testing.assert_close(seen[-1], after, atol=0.05, rtol=0.05)


def test_after_training_modules_are_what_they_were(tiny_bert: Any, labelled: Any) -> None:
    classifier, _ = prepared(tiny_bert, dropout=0.1)
    kinds = {name: type(module) for name, module in classifier.model.named_modules()}
    fitted(classifier, labelled(LENGTHS))
    assert {name: type(module) for name, module in classifier.model.named_modules()} == kinds
    embeddings = [p for n, p in classifier.model.named_parameters() if "embeddings" in n and p.ndim > 1]
    assert all(parameter.grad is None for parameter in embeddings)


def test_training_stops_when_patience_ends_with_the_weights_that_it_should_keep(tiny_bert: Any, labelled: Any) -> None:
    data, scores = labelled(LENGTHS), [0.5, 0.7, 0.7, 0.6, 0.9, 0.9]
    classifier, stopped = prepared(tiny_bert)
    result = fitted(classifier, data, scores=scores, epochs=6, patience=2, keep="best")
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert result.best_epoch == 2
    classifier, whole = prepared(tiny_bert)
    fitted(classifier, data, scores=[0.0, 1.0], epochs=6, keep="best")
    assert same(weights(stopped), weights(whole))
    classifier, last = prepared(tiny_bert)
    assert fitted(classifier, data, scores=scores, epochs=6, patience=2).best_epoch == 4
    assert not same(weights(last), weights(whole))
    classifier, _ = prepared(tiny_bert)
    assert len(fitted(classifier, data, scores=[0.5, 0.7, 0.7, 0.8], epochs=4, patience=2).history) == 4
