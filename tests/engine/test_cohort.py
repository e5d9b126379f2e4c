"""Members of a cohort end as they would alone, and leave no trace in one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import side_by_side
import torch
from side_by_side import (
    DEVICE,
    HARDWARE,
    LENGTHS,
    MIXED,
    UNSEEN,
    alike,
    alone,
    models,
    prepared,
    same,
    spec,
    together,
    weights,
)
from torch import Tensor, nn

from loratory.data import Labelled
from loratory.engine import draws, members
from loratory.engine.member_steps import Member, MemberSteps, why_apart, why_none
from loratory.engine.predict import predict
from loratory.engine.step import Step
from loratory.engine.together import predict_cohort
from loratory.errors import DivergedError
from loratory.models.flat import Classifier
from loratory.problems import MULTI, REGRESSION, Problem


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_each_ends_as_it_would_alone(family: str, model_directory: Any, labelled: Any) -> None:
    """52 steps in fp32 without dropout: losses to 1e-4, weights to what AdamW makes of rounding."""
    wide = {} if family == "distilbert" else {"hidden_size": 64, "intermediate_size": 128}
    directory, data = model_directory(family, **wide), labelled(LENGTHS)
    mixed = MIXED[:3] if family == "distilbert" else MIXED
    solo, joint = models(directory, mixed), models(directory, mixed)
    same(alone(solo, data, mixed), together(joint, data, mixed))
    alike(solo, joint)
    for (classifier, _), (other, _) in zip(solo, joint, strict=True):
        assert torch.allclose(
            predict(classifier, data, hardware=HARDWARE), predict(other, data, hardware=HARDWARE), atol=1e-3
        )


@pytest.mark.parametrize("problem", [MULTI, REGRESSION])
def test_sets_of_labels_and_numbers_are_learned_as_alone(
    problem: Problem, tiny_bert: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regression's logits are on the scale of the data when they are scored, and its head when it is done."""
    draw = np.random.default_rng(0)
    labels = draw.normal(100.0, 5.0, len(LENGTHS)) if problem == REGRESSION else draw.integers(0, 2, (len(LENGTHS), 2))
    data = replace(labelled(LENGTHS), labels=labels)
    seen: list[Tensor] = []

    def scores(data: Labelled) -> Callable[[Tensor], dict[str, float]]:
        return lambda logits: seen.append(logits) or {"loss": float(logits.mean())}

    monkeypatch.setattr(side_by_side, "scores", scores)
    mixed: Any = [
        ({"rank": 2}, {"lr": 0.004, "seed": 0, "epochs": 3}),
        ({"rank": 8, "targets": "all-linear"}, {"lr": 0.002, "seed": 1, "epochs": 5, "keep": "best"}),
    ]
    solo, joint = models(tiny_bert, mixed, problem=problem), models(tiny_bert, mixed, problem=problem)
    results = alone(solo, data, mixed, validated=True)
    first = sorted(float(one.mean()) for one in seen)
    seen.clear()
    same(results, together(joint, data, mixed, validated=True))
    assert sorted(float(one.mean()) for one in seen) == pytest.approx(first, abs=1e-2)
    alike(solo, joint, apart=2e-2 if problem == REGRESSION else 2e-3)  # times the targets' deviation of 5
    for (classifier, _), (other, _) in zip(solo, joint, strict=True):
        found = predict(other, data, hardware=HARDWARE)
        assert torch.allclose(predict(classifier, data, hardware=HARDWARE), found, atol=2e-2)
        assert problem == MULTI or float(found.mean()) == pytest.approx(100.0, abs=5.0)


def test_one_that_ends_leaves_the_others_as_they_were(tiny_bert: Any, labelled: Any) -> None:
    """By its epochs, some of them, by patience, or at the end of all, with its best weights or its last."""
    data = labelled(LENGTHS)
    mixed: Any = [
        ({"rank": 2}, {"lr": 0.003, "seed": 0, "epochs": 2}),
        ({"rank": 4}, {"lr": 0.02, "seed": 1, "epochs": 9, "patience": 1, "keep": "best"}),
        ({"rank": 8}, {"lr": 0.001, "seed": 2, "epochs": 5, "keep": "best"}),
        ({"rank": 1}, {"lr": 0.002, "seed": 3, "epochs": 6}),
        ({"rank": 2}, {"lr": 0.003, "seed": 0, "epochs": 6, "until": 3}),
    ]
    solo, joint = models(tiny_bert, mixed), models(tiny_bert, mixed)
    results = alone(solo, data, mixed, validated=True)
    lengths = [len(result.history) for result in results]
    assert (lengths[0], lengths[4]) == (2, 3)
    assert lengths[1] < 9
    assert any(result.best_epoch < len(result.history) for result in results)
    same(results, together(joint, data, mixed, validated=True))
    alike(solo, joint)


def test_one_that_diverges_leaves_no_trace(tiny_bert: Any, labelled: Any) -> None:
    data, mixed = labelled(LENGTHS), MIXED[:3]
    solo, joint = models(tiny_bert, mixed), models(tiny_bert, mixed)
    with torch.no_grad():
        dict(joint[1][0].model.named_parameters())["classifier.weight"].fill_(float("nan"))
    ended = together(joint, data, mixed)
    assert isinstance(ended[1].error, DivergedError)
    assert len(ended[1].history) == 1
    results = alone(solo, data, mixed)
    for whole in (0, 2):
        same([results[whole]], [ended[whole]])
        alike([solo[whole]], [joint[whole]])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_each_draws_the_masks_that_it_would_draw_alone(family: str, model_directory: Any, labelled: Any) -> None:
    """Dropout in layers, before them and in the head, and LoRA's own, of which one has none; one leaves early."""
    data = labelled(LENGTHS)
    mixed: Any = [
        ({"rank": 2, "lora_dropout": 0.3}, {"lr": 2e-3, "seed": 0, "epochs": 3}),
        ({"rank": 4}, {"lr": 1e-3, "seed": 1, "epochs": 2}),
        ({"rank": 8, "lora_dropout": 0.1, "targets": "all-linear"}, {"lr": 3e-3, "seed": 2, "epochs": 4}),
    ]
    directory = model_directory(family)
    solo, joint = models(directory, mixed, 0.2), models(directory, mixed, 0.2)
    results = alone(solo, data, mixed)
    before = torch.get_rng_state()
    same(results, together(joint, data, mixed))
    assert torch.equal(before, torch.get_rng_state())
    alike(solo, joint)
    others = [(settings, {**more, "seed": more["seed"] + 7}) for settings, more in mixed]
    again = alone(models(directory, mixed, 0.2), data, others)
    assert all(
        one.history[0]["loss"] != pytest.approx(other.history[0]["loss"], abs=1e-4)
        for one, other in zip(results, again, strict=True)
    )


BESIDE: dict[str, list[dict[str, Any]]] = {
    "norms": [
        {"name": "hybrid", "rank": rank, "unfrozen_layers": 0, "also_unfrozen": "layernorm", "targets": targets}
        for rank, targets in ((4, "attention"), (0, "attention"), (8, "all-linear"))
    ],
    "norms and biases": [
        {"name": "hybrid", "rank": rank, "unfrozen_layers": 0, "also_unfrozen": "layernorm,biases"}
        for rank in (4, 1, 8)
    ],
    "shifts": [{"name": "bitfit"}] * 3,
    "scales and shifts": [{"name": "layernorm"}] * 3,
    "biases of LoRA": [{"rank": rank, "bias": "all"} for rank in (2, 8, 4)],
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("what", BESIDE)
def test_norms_and_biases_are_each_members_own(what: str, dropout: float, model_directory: Any, labelled: Any) -> None:
    """Those of layers and of embeddings; one leaves before the others, and all are read in one pass at the end."""
    data = labelled(LENGTHS)
    mixed: Any = [
        (settings, {"lr": rate, "seed": seed, "epochs": epochs, "weight_decay": 0.1 * seed})
        for seed, (settings, rate, epochs) in enumerate(zip(BESIDE[what], (4e-3, 2e-3, 8e-3), (3, 2, 5), strict=True))
    ]
    directory = model_directory("distilbert" if what == "norms" else "roberta")
    solo, joint = models(directory, mixed, dropout), models(directory, mixed, dropout)
    before = weights(joint)
    results = alone(solo, data, mixed, validated=True)
    same(results, together(joint, data, mixed, validated=True))
    alike(solo, joint)
    for was, now in zip(before, weights(joint), strict=True):
        for name, value in was.items():
            assert name.endswith(UNSEEN) or not torch.equal(value, now[name]), name


def test_norms_without_shifts_are_each_members_own(model_directory: Any, labelled: Any) -> None:
    data = labelled(LENGTHS)
    mixed: Any = [({"name": "layernorm"}, {"lr": 4e-3 / (1 + seed), "seed": seed, "epochs": 3}) for seed in range(2)]
    directory = model_directory("modernbert")
    solo, joint = models(directory, mixed), models(directory, mixed)
    same(alone(solo, data, mixed), together(joint, data, mixed))
    alike(solo, joint)


def test_dropout_of_stock_layers_is_drawn_for_all_on_cuda(model_directory: Any) -> None:
    """On a CPU every dropout is the cohort's own."""
    made, _ = prepared(model_directory("albert"), {"name": "layernorm"}, 0, 0.2)
    one = Member(made, spec({}), 1e-3, 0)
    assert why_none(one, HARDWARE) is None or DEVICE == "cuda"
    cuda = replace(HARDWARE, device=torch.device("cuda"))
    assert "stock modules" in str(why_none(one, cuda))
    plain, _ = prepared(model_directory("bert"), {"name": "layernorm"}, 0, 0.2)
    assert why_none(Member(plain, spec({}), 1e-3, 0), cuda) is None


@pytest.mark.skipif(DEVICE == "cuda", reason="needs a CPU: kernels draw their own masks")
@pytest.mark.parametrize(
    "mixed",
    [
        [
            ({"rank": 2, "lora_dropout": 0.3}, {"lr": 1e-3, "seed": 0}),
            ({"rank": 4}, {"lr": 1e-3, "seed": 1}),
            ({"rank": 8, "lora_dropout": 0.3, "targets": "all-linear"}, {"lr": 1e-3, "seed": 2}),
        ],
        [({"name": "head"}, {"lr": 1e-3, "seed": seed}) for seed in range(3)],
    ],
    ids=["lora", "head"],
)
def test_gradients_under_given_masks(
    mixed: Any, tiny_bert: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labelled(LENGTHS[:4])
    drawn = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))

    def mask(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
        kept = drawn[: x.shape[0], : x.shape[1]].to(x) >= p
        return kept.to(x.dtype) / (1 - p)

    for module in (draws, members):
        monkeypatch.setattr(module, "mask", mask)
    expected, found = list[dict[str, Tensor]](), list[list[dict[str, Tensor]]]()
    step, steps = Step.update, MemberSteps.update

    def update(self: Step) -> None:
        expected.append({name: one.grad.clone() for name, one in self.free.items() if one.grad is not None})
        step(self)

    def update_all(self: MemberSteps) -> None:
        steps(self)
        places = {one: (stack, member) for stack in self.stacks.stacks for member, one in enumerate(stack.parameters)}
        found.append([])
        for classifier, _ in joint:
            found[-1].append({})
            for name, parameter in classifier.model.named_parameters():
                if parameter in places:
                    stack, member = places[parameter]
                    own = stack.gradient[member][tuple(map(slice, parameter.shape))]
                    found[-1][-1][name] = own.clone()
                    assert stack.gradient[member].count_nonzero() == own.count_nonzero(), "filler has none"

    monkeypatch.setattr(Step, "update", update)
    monkeypatch.setattr(MemberSteps, "update", update_all)
    solo, joint = models(tiny_bert, mixed, 0.3), models(tiny_bert, mixed, 0.3)
    for made in (solo, joint):  # B begins as zeros, and A's gradients would be zeros too
        for name, one in (pair for classifier, _ in made for pair in classifier.model.named_parameters()):
            if "lora_B" in name:
                nn.init.normal_(one, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    without = {"max_grad_norm": 0.0, "epochs": 1}  # gradients as they are
    same(alone(solo, data, mixed, **without), together(joint, data, mixed, **without), apart=1e-6)
    for one, other in zip(expected, found[0], strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            assert torch.allclose(gradient, other[name], atol=1e-5, rtol=0), name
            assert name.endswith(UNSEEN) or gradient.abs().max() > 1e-3, name


def test_probes_share_one_pass_of_the_encoder(tiny_bert: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, passes = labelled(LENGTHS), []
    mixed: Any = [
        ({"name": "head"}, {"lr": 0.01 * (1 + seed), "seed": seed, "weight_decay": 0.1 * seed, "epochs": 3 + seed})
        for seed in range(4)
    ]
    solo, joint = models(tiny_bert, mixed), models(tiny_bert, mixed)
    results = alone(solo, data, mixed)
    encode = Classifier.encode
    monkeypatch.setattr(Classifier, "encode", lambda self, batch: passes.append(len(batch)) or encode(self, batch))
    same(results, together(joint, data, mixed))
    assert sum(passes) == len(LENGTHS)
    alike(solo, joint)
    passes.clear()
    members = [Member(one, spec({}), 0.1, 0) for one, _ in joint]
    parts = {"validation": labelled(LENGTHS[:5]), "test": data}
    found = predict_cohort(members, parts, hardware=HARDWARE)
    assert sum(passes) == len(LENGTHS) + 5
    for (one, _), logits in zip(solo, found, strict=True):
        for part, texts in parts.items():
            assert torch.allclose(predict(one, texts, hardware=HARDWARE), logits[part], atol=1e-4)


def test_the_encoder_below_heads_is_deterministic_where_all_must_be(
    tiny_bert: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "HARDWARE", replace(HARDWARE, deterministic=True))
    mixed: Any = [({"name": "head"}, {"lr": 0.01, "seed": seed}) for seed in range(2)]
    encode, seen = Classifier.encode, list[bool]()

    def watched(self: Classifier, batch: Any) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return encode(self, batch)

    monkeypatch.setattr(Classifier, "encode", watched)
    together(models(tiny_bert, mixed), labelled(LENGTHS), mixed, epochs=1)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(
    ("settings", "others", "said"),
    [
        ({"rank": 2, "dora": "on"}, {}, "lora_"),
        ({"rank": 2, "targets": "layer.1.attention.self.query"}, {}, "its frozen bottom runs once"),
        ({"name": "hybrid"}, {}, "is trained"),
        ({"name": "hybrid", "unfrozen_layers": 0, "also_unfrozen": "embeddings"}, {}, "embeddings.weight is trained"),
        ({"name": "bitfit"}, {}, "what is trained beside updates differs"),
        ({"name": "hybrid", "rank": 0, "unfrozen_layers": 0}, {}, "some train above an encoder that runs once"),
        ({"rank": 2}, {"batch_size": 8}, "batch_size differs"),
        ({"rank": 2}, {"attention_dropout": 0.1}, "attention_dropout differs"),
        ({"rank": 2}, {"label_smoothing": 0.1}, "label_smoothing differs"),
    ],
)
def test_what_does_not_fit_is_known_before(
    settings: dict[str, Any], others: dict[str, Any], said: str, tiny_bert: Any, labelled: Any
) -> None:
    mixed: Any = [({"rank": 2}, {"lr": 1e-3, "seed": 0}), (settings, {"lr": 1e-3, "seed": 0, **others})]
    made = models(tiny_bert, mixed)
    all_of = [
        Member(one, spec(more), more["lr"], more["seed"]) for (one, _), (_, more) in zip(made, mixed, strict=True)
    ]
    assert said in str(why_apart(all_of, HARDWARE))
    before = weights(made)
    with pytest.raises(ValueError, match=said):
        together(made, labelled(LENGTHS), mixed)
    assert all(
        torch.equal(value, now[name])
        for was, now in zip(before, weights(made), strict=True)
        for name, value in was.items()
    )
    assert why_apart(all_of[:1], HARDWARE) is None
