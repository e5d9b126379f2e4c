"""Compiled layers compute what they computed before, in training alone, and only where it pays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AttentionInterface

from loratory.data import Cut, epoch_order
from loratory.engine.compiling import SAVED, SECONDS, Compiled
from loratory.engine.hardware import Hardware
from loratory.engine.layers import quickened
from loratory.methods import method_named, method_settings
from loratory.models import flat_attention
from loratory.models.flat import Classifier
from loratory.models.flat_attention import ATTENTION
from loratory.models.load import load_base
from loratory.spec import HardwareSpec

pytestmark = [  # torch's own, when its compiler is imported and traces
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # which it does itself
]
EXACT = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_gradients_stay_the_same_and_the_code_of_one_layer_serves_all(model_directory: Any, labelled: Any) -> None:
    """Of layers that have no kernels of their own: no others are compiled."""
    base = load_base(str(model_directory("modernbert")), labels=("a", "b"), seed=0, dropout=0.0)
    method_named("lora").prepare(base, method_settings({"name": "lora"}), seed=0)
    for name, parameter in base.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    classifier = Classifier(base.model.train(), base.family, base.pad_id)
    counter = CompileCounterWithBackend("aot_eager")

    def computed(lengths: list[int]) -> dict[str, torch.Tensor]:
        data = labelled(lengths)
        ((batch,),) = data.steps(epoch_order(len(lengths), 0, 1), Cut(len(lengths)))
        classifier(batch).logsumexp(-1).sum().backward()
        grads = {name: p.grad for name, p in base.model.named_parameters() if p.grad is not None}
        for parameter in base.model.parameters():
            parameter.grad = None
        return grads

    with quickened(base.model, EXACT):
        compiled = Compiled(base.family.blocks(base.model), backend=counter)
        shapes = ([5, 9, 3], [7, 30, 2, 4], [40])
        expected = [computed(lengths) for lengths in shapes]
        assert counter.frame_count == 0
        compiled.start()
        for lengths, gradients in zip(shapes, expected, strict=True):
            frames = counter.frame_count
            ours = computed(lengths)
            assert ours.keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)
        assert 0 < frames == counter.frame_count  # the last shape compiled nothing more
        base.model.eval()
        with torch.no_grad():
            ((batch,),) = labelled([6]).steps(epoch_order(1, 0, 1), Cut(1))
            classifier(batch)
        assert counter.frame_count == frames
        compiled.stop()
    assert AttentionInterface()[ATTENTION] is flat_attention.attend
    assert not any("forward" in vars(layer) for layer in base.family.blocks(base.model))


def test_it_pays_where_what_is_saved_exceeds_what_it_takes() -> None:
    one = Compiled([torch.nn.Linear(2, 2)])
    steps = 1000
    enough = SECONDS / SAVED / steps
    assert one.pays(1.01 * enough, steps)
    assert not one.pays(0.99 * enough, steps)
    assert not Compiled(why_not="never on a CPU").pays(9e9, steps)
