"""Filling batches up to a few shapes changes nothing in what is trained. (Capture itself needs a GPU: test_gpu.py.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratory.data import Cut, Labelled, Shape, epoch_order
from loratory.data.batches import filled
from loratory.engine.compiling import Compiled
from loratory.engine.graphs import Graphs, captured
from loratory.engine.hardware import Hardware
from loratory.engine.shapes import CAPTURED, Shapes
from loratory.engine.step import Step
from loratory.methods import method_named, method_settings
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7, 40]
FLAT = sorted(name for name, family in FAMILIES.items() if family.flat)


def stepper(directory: Any, data: Labelled, size: int, **settings: Any) -> Step:
    base = load_base(str(directory), labels=("a", "b"), seed=0, dropout=0.0)
    method_named("lora").prepare(base, method_settings({"name": "lora"}), seed=0)
    spec = TrainingSpec(**{"epochs": 1, "batch_size": size, **settings})
    classifier = Classifier(base.model, base.family, base.pad_id)
    base.model.train()
    return Step(classifier, spec, HARDWARE, lr=0.01, total=math.ceil(len(data.labels) / size))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("family", FLAT)
def test_filled_batches_train_as_those_they_were_made_of(
    family: str, accumulate: int, model_directory: Any, labelled: Any
) -> None:
    data, size = labelled(LENGTHS), 5
    order = epoch_order(len(LENGTHS), 0, 1)
    plain = stepper(model_directory(family), data, size, accumulate=accumulate)
    step = stepper(model_directory(family), data, size, accumulate=accumulate)
    part = math.ceil(size / accumulate)
    shapes = Shapes(tuple(range(16, 112, 16)), smallest=1, examples=part, longest=64, filler=64)
    graphs = Graphs(step, shapes)
    for parts in data.steps(order, Cut(size, accumulate)):
        rows = graphs(parts)
        plain(parts)
        assert rows == sum((p.tokens // 16 + 1) * 16 for p in parts)
    assert float(step.loss) == pytest.approx(float(plain.loss), rel=1e-5)
    for name, parameter in plain.free.items():
        torch.testing.assert_close(step.free[name], parameter, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    more=st.integers(1, 40),
    empty=st.integers(0, 3),
    fillers=st.integers(1, 5),
)
def test_filler_stands_behind_and_weighs_nothing(lengths: list[int], more: int, empty: int, fillers: int) -> None:
    from loratory.data import TokenTable

    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = Labelled(TokenTable(np.arange(3, 3 + offsets[-1], dtype=np.int32), offsets), np.ones(len(lengths), np.int64))
    ((batch,),) = data.steps(np.arange(len(lengths)), Cut(len(lengths)))
    shape = Shape(batch.tokens + more, len(batch) + empty, fillers, longest=64)
    full = filled(batch, shape, 0)
    assert full.input_ids[: batch.tokens].equal(batch.input_ids)
    assert not full.input_ids[batch.tokens :].any()
    assert (full.tokens, len(full), len(full.cu_seqlens)) == (
        shape.tokens,
        shape.examples,
        shape.examples + fillers + 1,
    )
    parts = full.cu_seqlens.diff()
    assert (parts >= 0).all()
    assert parts.sum() == shape.tokens
    assert full.cu_seqlens[: len(batch) + 1].equal(batch.cu_seqlens)
    assert full.weights.sum().item() == pytest.approx(1)
    assert not full.weights[len(batch) :].any()
    first = full.cu_seqlens[: len(full)].long()
    assert first.max() < full.tokens  # every label has a row to read
    starts = full.cu_seqlens[:-1].repeat_interleave(parts.long())
    assert full.position_ids.equal(torch.arange(full.tokens) - starts)


def test_what_does_not_fit_is_refused(labelled: Any) -> None:
    ((batch,),) = labelled([4, 6]).steps(np.arange(2), Cut(2))
    for tokens, examples, longest in ((9, 2, 64), (16, 1, 64), (10, 3, 64), (16, 2, 5), (99, 2, 64)):
        with pytest.raises(ValueError, match="do not fit"):
            filled(batch, Shape(tokens, examples, 1, longest), 0)


def cost(sizes: Sequence[int], totals: Sequence[int]) -> float:
    """In tokens: filler, and what capturing so many sizes takes."""
    filler = sum(min(size for size in sizes if size > total) - total for total in totals)
    return filler + CAPTURED * len(sizes) * float(np.mean(totals))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=50))
def test_shapes_hold_every_batch_with_a_filler_token_left(totals: list[int]) -> None:
    shapes = Shapes.of(totals, examples=32, longest=128)
    for total in totals:
        shape = shapes.shape(total)
        assert total < shape.tokens
        assert shape.tokens - total <= shape.fillers * 64
    assert {shapes.shape(total).tokens for total in totals} == set(shapes.sizes)
    assert max(shapes.sizes) <= max(totals) + 512


@given(st.lists(st.integers(900, 1400), min_size=1, max_size=12), st.integers(1, 60))
def test_no_other_shapes_cost_less(some: list[int], times: int) -> None:
    totals = some * times
    multiple = min(512, max(64, 2 ** round(math.log2(max(1.0, float(np.std(totals)) / 2)))))
    *others, largest = sorted({(total // multiple + 1) * multiple for total in totals})
    every = ([*compress(others, kept), largest] for kept in product([False, True], repeat=len(others)))
    found = Shapes.of(totals, examples=32, longest=128).sizes
    assert cost(found, totals) == pytest.approx(min(cost(sizes, totals) for sizes in every))


@given(st.integers(0, 2**32 - 1), st.integers(200, 9000), st.integers(1, 800))
def test_many_batches_have_little_filler_and_few_have_few_shapes(seed: int, mean: int, spread: int) -> None:
    totals = np.random.default_rng(seed).normal(mean, min(spread, mean / 6), 500).round().astype(int).clip(1).tolist()
    shapes = Shapes.of(totals * 100, examples=32, longest=128)
    filler = sum(shapes.shape(total).tokens - total for total in totals)
    assert filler < max(0.08 * sum(totals), 64 * len(totals))
    assert len(shapes.sizes) <= 24
    assert len(Shapes.of(totals[:30], examples=32, longest=128).sizes) == 1


def test_on_the_cpu_steps_run_eagerly_and_the_record_says_so(tiny_bert: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)
    step = stepper(tiny_bert, data, 4)
    made = captured(step, [20] * 9, steps=9, examples=4, longest=40, compiled=Compiled(why_not="never on a CPU"))
    assert made[0] is step
    assert made[1] == {"graphs": 0, "why_eager": "not on CUDA", "compiled": {"layers": 0, "why": "never on a CPU"}}
