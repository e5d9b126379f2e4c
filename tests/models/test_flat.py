"""Flat batches give what transformers' own padded forward gives: logits and gradients, for every family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from loratory.data import Batch, collate
from loratory.methods import method_named, method_settings
from loratory.models import flat, flat_attention
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.flat_attention import Layout
from loratory.models.load import load_base

FLAT = [name for name, family in FAMILIES.items() if family.flat]
PADDED = [name for name, family in FAMILIES.items() if not family.flat]
LENGTHS = [7, 1, 30, 2, 13, 30, 3]
LABELS = ("a", "b", "c")


def classifier(directory: Any, *, flat_tokens: bool, method: str = "standard", **settings: Any) -> Classifier:
    base = load_base(str(directory), labels=LABELS, seed=0, dropout=0.0, flat_tokens=flat_tokens)
    chosen = method_named(method)
    chosen.prepare(base, method_settings({"name": method, **settings}), seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in base.model.named_parameters():
        if "lora_B" in name:  # B starts at zero, which would leave A without influence and gradient
            parameter.data.normal_(std=0.3, generator=draw)
    return Classifier(base.model, base.family, base.pad_id)


def logits_and_gradients(model: Classifier, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(batch)
    F.cross_entropy(logits, batch.labels).backward()
    return logits.detach(), {
        name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in model.model.named_parameters()
        if parameter.requires_grad
    }


def test_the_families_that_run_flat_are_those_the_design_names() -> None:
    assert set(FLAT) == {
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "electra",
        "distilbert",
        "albert",
        "modernbert",
        "gpt2",
        "llama",
        "qwen2",
        "qwen3",
    }
    assert set(PADDED) == {"mpnet", "deberta", "deberta-v2"}


@pytest.mark.parametrize(
    ("method", "settings"),
    [("standard", {}), ("lora", {"rank": 4}), ("lora", {"rank": 4, "targets": "all-linear"})],
    ids=["plain", "lora on attention", "lora on all-linear"],
)
@pytest.mark.parametrize("family", FLAT)
def test_flat_and_padded_agree_in_logits_and_gradients(
    family: str, method: str, settings: dict[str, Any], model_directory: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS, classes=3)
    batch = collate(data.tokens, data.labels, range(len(LENGTHS)))
    flat_one = classifier(model_directory(family), flat_tokens=True, method=method, **settings)
    padded_one = classifier(model_directory(family), flat_tokens=False, method=method, **settings)
    assert flat_one.flat
    assert not padded_one.flat

    logits, gradients = logits_and_gradients(flat_one, batch)
    expected, expected_gradients = logits_and_gradients(padded_one, batch)
    assert expected.std() > 0.01  # else any two models would agree
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    assert gradients
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected_gradients[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    adapted = [gradient for name, gradient in gradients.items() if "lora_" in name]
    assert all(gradient.abs().max() > 0 for gradient in adapted)
    assert bool(adapted) == (method == "lora")


def test_modernbert_has_local_layers_whose_window_matters(model_directory: Any, labelled: Any) -> None:
    data = labelled([30])
    batch = collate(data.tokens, data.labels, [0])
    with torch.no_grad():
        local = classifier(model_directory("modernbert"), flat_tokens=True)(batch)
        wide = classifier(model_directory("modernbert", local_attention=256), flat_tokens=True)(batch)
    assert (local - wide).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_gets_the_same_logits_whatever_stands_beside_it(
    family: str, model_directory: Any, labelled: Any
) -> None:
    model = classifier(model_directory(family), flat_tokens=True, method="lora", rank=2)
    data = labelled(LENGTHS, classes=3)
    with torch.no_grad():
        together = model(collate(data.tokens, data.labels, range(len(LENGTHS))))
        shuffled = model(collate(data.tokens, data.labels, [6, 2, 0]))
        alone = torch.cat([model(collate(data.tokens, data.labels, [i])) for i in range(len(LENGTHS))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled, alone[[6, 2, 0]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", PADDED)
def test_other_families_run_padded_and_give_the_stock_forward(family: str, model_directory: Any, labelled: Any) -> None:
    model = classifier(model_directory(family), flat_tokens=True)
    data = labelled(LENGTHS, classes=3)
    batch = collate(data.tokens, data.labels, range(len(LENGTHS)))
    assert not model.flat
    assert (batch.tokens, model.rows(batch)) == (sum(LENGTHS), len(LENGTHS) * max(LENGTHS))
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        begin = data.tokens.offsets[row]
        ids[row, :length] = torch.from_numpy(data.tokens.ids[begin : begin + length].astype("int64"))
        mask[row, :length] = 1
    with torch.no_grad():
        assert torch.equal(model(batch), model.model(input_ids=ids, attention_mask=mask).logits)
        assert model(batch).std() > 0.01


def test_a_flat_batch_computes_its_tokens_and_fills_up_to_a_few_shapes(model_directory: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)
    model = classifier(model_directory("bert"), flat_tokens=True)
    assert (
        model.rows(collate(data.tokens, data.labels, range(len(LENGTHS))))
        == sum(LENGTHS) + -sum(LENGTHS) % flat.ROUNDED
    )


def test_a_head_that_pools_over_all_tokens_runs_padded(model_directory: Any) -> None:
    assert not classifier(model_directory("modernbert", classifier_pooling="mean"), flat_tokens=True).flat


def layout(lengths: list[int], labelled: Any) -> Layout:
    data = labelled(lengths)
    return Layout.of(collate(data.tokens, data.labels, range(len(lengths))))


def attention(query: Any, key: Any, value: Any, where: Layout, *, window: int | None, dropout: float = 0.0) -> Any:
    """(T, H, D) each -> (T, H, D), by way of what transformers calls."""
    rows = (part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))
    width = None if window is None else window + 1
    out, _ = flat_attention.attend(
        torch.nn.Identity(), *rows, None, layout=where, dropout=dropout, sliding_window=width
    )
    return out[0]


@pytest.mark.parametrize("window", [None, 1], ids=["global", "window"])
@pytest.mark.parametrize("lengths", [[3, 1, 5], [4, 2, 1, 1, 3, 1, 1, 1]], ids=["one group", "two groups"])
def test_attention_backward_is_the_derivative_of_its_forward(
    lengths: list[int], window: int | None, labelled: Any
) -> None:
    where = layout(lengths, labelled)
    assert len(where.groups) == (1 if len(lengths) < 8 else 2)
    draw = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(sum(lengths), 2, 4, generator=draw, dtype=torch.float64, requires_grad=True)
        for _ in ("query", "key", "value")
    ]
    # the softmax is computed in fp32 whatever comes in, so that the differences must stand well above its rounding
    checked = torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, where, window=window), parts, eps=1e-2, atol=1e-3, rtol=1e-2
    )
    assert checked


@pytest.mark.parametrize("window", [None, 2], ids=["global", "window"])
@pytest.mark.parametrize("lengths", [[3, 1, 9], [5, 4, 4, 3, 9, 1, 2, 2, 7]], ids=["one group", "two groups"])
def test_attention_is_that_of_each_sequence_alone(lengths: list[int], window: int | None, labelled: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(sum(lengths), 2, 4, generator=draw) for _ in range(3))
    out = attention(query, key, value, layout(lengths, labelled), window=window)
    begin = 0
    for length in lengths:
        q, k, v = (part[begin : begin + length].transpose(0, 1) for part in (query, key, value))
        places = torch.arange(length)
        near = (places[:, None] - places[None, :]).abs() <= (window if window is not None else length)
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=near).transpose(0, 1)
        torch.testing.assert_close(out[begin : begin + length], expected, atol=1e-6, rtol=1e-5)
        begin += length


def test_attention_dropout_changes_each_draw_and_not_the_mean(labelled: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(6, 2, 4, generator=draw) for _ in range(3))
    where = layout([4, 2], labelled)
    expected = attention(query, key, value, where, window=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = torch.stack([attention(query, key, value, where, window=None, dropout=0.3) for _ in range(3000)])
    assert (draws[0] - draws[1]).abs().max() > 0.01
    error = draws.std(dim=0) / 3000**0.5
    assert ((draws.mean(dim=0) - expected).abs() < 5 * error + 1e-6).all()


def test_attention_dropout_has_the_gradient_of_the_draw_it_made(labelled: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    where = layout([4, 2], labelled)
    query, key, value = (torch.randn(6, 2, 4, generator=draw, requires_grad=True) for _ in range(3))
    direction = torch.randn(6, 2, 4, generator=draw)

    def out(v: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return attention(query, key, v, where, window=None, dropout=0.5)

    (gradient,) = torch.autograd.grad((out(value) * direction).sum(), value)
    with torch.no_grad():  # linear in the values: the difference is exact
        step = torch.randn(6, 2, 4, generator=draw)
        change = ((out(value + step) - out(value)) * direction).sum()
    torch.testing.assert_close((gradient * step).sum(), change, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FLAT)
def test_attention_dropout_of_the_spec_reaches_the_model(family: str, model_directory: Any, labelled: Any) -> None:
    data = labelled(LENGTHS, classes=3)
    batch = collate(data.tokens, data.labels, range(len(LENGTHS)))
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0, dropout=0.0, attention_dropout=0.5)
    model = Classifier(base.model, base.family, base.pad_id)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.model.train()
        assert (model(batch) - model(batch)).abs().max() > 1e-3
        model.model.eval()
        assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_padding_token_inside_a_text_is_counted_as_stock_does(family: str, model_directory: Any) -> None:
    directory = model_directory(family)
    ids = torch.tensor([2, 7, 0, 9, 11, 0, 5])
    places, bounds = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.tensor([0, 5, 7], dtype=torch.int32)
    batch = Batch(ids, places, bounds, 5, torch.zeros(2), torch.ones(2))
    ours = classifier(directory, flat_tokens=True)
    stock = classifier(directory, flat_tokens=False).model.eval()
    ours.model.eval()
    with torch.no_grad():
        expected = [
            stock(input_ids=part[None], attention_mask=torch.ones(1, len(part))).logits for part in (ids[:5], ids[5:])
        ]
        torch.testing.assert_close(ours(batch), torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_sequence_by_sequence_attention_gives_what_the_padded_view_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = torch.tensor([0, 9, 10, 31, 60], dtype=torch.int32)
    places = torch.cat([torch.arange(int(n)) for n in bounds.diff()])
    layout = flat_attention.Layout(bounds, 29, places)
    results = []
    for apart in (10**6, 0):
        monkeypatch.setattr(flat_attention, "APART", apart)
        torch.manual_seed(1)
        mixed = torch.randn(60, 3, 2, 16, requires_grad=True)
        out = flat_attention.attend_packed(mixed, layout, dropout=0.0)
        out.backward(torch.randn(60, 2, 16))
        results.append((out.detach(), mixed.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("apart", [10**6, 0])
def test_in_bf16_a_cpu_attends_over_few_lengths(causal: bool, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills a sequence up is seen by nobody; a text by itself is attended as in fp32, up to rounding."""
    monkeypatch.setattr(flat_attention, "APART", apart)
    seen = set[int]()
    for name, kept in (("scaled_dot_product_attention", F.scaled_dot_product_attention), ("bmm", torch.bmm)):

        def looked(one: Any, *others: Any, kept: Any = kept, **more: Any) -> Any:
            seen.add(one.shape[-2])
            return kept(one, *others, **more)

        monkeypatch.setattr(F if name != "bmm" else torch, name, looked)
    bounds = torch.tensor([0, 9, 10, 31, 60], dtype=torch.int32)
    places = torch.cat([torch.arange(int(n)) for n in bounds.diff()])
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        seen.clear()
        torch.manual_seed(1)
        rows = torch.randn(3, 60, 2, 16).to(dtype).requires_grad_()
        layout = flat_attention.Layout(bounds, 29, places, causal)
        out, _ = flat_attention.attend(
            torch.nn.Identity(), *(one.transpose(0, 1).unsqueeze(0) for one in rows), None, layout=layout
        )
        out[0].backward(torch.randn(60, 2, 16).to(dtype))
        results.append((out.detach().float(), rows.grad.float()))
    assert seen
    assert {length % flat_attention.WIDTHS for length in seen} <= {0}
    for exact, rounded in zip(*results, strict=True):
        assert torch.linalg.vector_norm(exact - rounded) < 2e-2 * torch.linalg.vector_norm(exact)


def test_a_decoder_without_a_padding_token_pads_with_its_end_of_text(
    model_directory: Any, labelled: Any, tmp_path: Any
) -> None:
    place = Path(shutil.copytree(model_directory("gpt2", pad_token_id=None), tmp_path / "gpt2"))
    settings = json.loads((place / "tokenizer_config.json").read_text("utf8"))
    settings |= {"pad_token": None, "eos_token": "w95"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf8")
    flat_one, padded_one = (classifier(place, flat_tokens=flat_tokens) for flat_tokens in (True, False))
    config: Any = padded_one.model.config
    assert (flat_one.pad_id, padded_one.pad_id, config.pad_token_id) == (99, 99, 99)
    data = labelled(LENGTHS, classes=3)
    batch = collate(data.tokens, data.labels, range(len(LENGTHS)))
    with torch.no_grad():
        torch.testing.assert_close(flat_one(batch), padded_one(batch), atol=1e-5, rtol=1e-5)


def test_a_decoder_sees_what_stands_before_and_pools_the_last_token(model_directory: Any, labelled: Any) -> None:
    model, data = classifier(model_directory("llama"), flat_tokens=True), labelled([9])
    batch = collate(data.tokens, data.labels, [0])
    with torch.no_grad():
        hidden = model.encode(batch)
        batch.input_ids[-1] = (batch.input_ids[-1] - 3) % 90 + 4
        other = model.encode(batch)
    torch.testing.assert_close(hidden[:-1], other[:-1])
    assert not torch.allclose(hidden[-1], other[-1])
    assert model.pooled(batch).tolist() == [8]
