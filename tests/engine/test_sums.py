"""Gradients of several processes are summed while backward goes on; what comes out is what a sum after it gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loratory.engine import sums
from loratory.engine.sums import Sums


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x.sum()


class Others:
    """In the place of torch.distributed: another process has the same gradients, and what is sent is told in order."""

    def __init__(self) -> None:
        self.sent: list[Tensor] = []

    def all_reduce(self, tensor: Tensor, *, async_op: bool) -> Any:
        assert async_op
        self.sent.append(tensor)
        return self

    def wait(self) -> None:
        self.sent.pop().mul_(2)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Others]:
    made = Others()
    monkeypatch.setattr(sums.dist, "all_reduce", made.all_reduce)
    monkeypatch.setattr(sums, "BUCKET", 300)  # a layer's weight and bias
    yield made
    assert not made.sent


def gradients(net: Net) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_full_buckets_are_on_their_way_before_backward_ends(others: Others) -> None:
    torch.manual_seed(0)
    net, x, sent = Net(), torch.randn(3, 8, requires_grad=True), []
    net(x).backward()
    expected = {name: None if grad is None else 2 * grad for name, grad in gradients(net).items()}
    together = Sums(list(net.parameters()), single=True)
    net.layers[0].register_full_backward_pre_hook(lambda *_: sent.append(len(others.sent)))
    for step in range(2):
        with together.backward():
            net(x).backward()
        assert len(others.sent) == 5
        together.finish()
        for name, grad in gradients(net).items():
            assert (grad is None) == name.startswith("unused")
            torch.testing.assert_close(grad, expected[name], rtol=0, atol=0)
            assert grad is None or grad.storage_offset() % sums.ALIGNED == 0
        assert sent[step] == (0 if step == 0 else 4)  # the first pass waits for what never comes, and learns


def test_passes_that_add_up_are_summed_after_the_last(others: Others) -> None:
    torch.manual_seed(0)
    net, parts = Net(), torch.randn(2, 3, 8)
    net(parts.flatten(0, 1)).backward()
    expected = {name: None if grad is None else 2 * grad for name, grad in gradients(net).items()}
    net.zero_grad()
    together = Sums(list(net.parameters()), single=False)
    for part in parts:
        with together.backward():
            net(part).backward()
        assert not others.sent
    together.finish()
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, expected[name])


def test_what_is_frozen_until_later_is_summed_once_it_is_trained(others: Others) -> None:
    net, x = Net(), torch.randn(3, 8)
    together = Sums(list(net.parameters()), single=True)
    for free in (False, True):
        net.layers[1].requires_grad_(free)
        with together.backward():
            net(x).backward()
        together.finish()
        assert (net.layers[1].weight.grad is not None) == free


def test_a_gradient_that_nobody_waited_for_is_not_lost_in_silence(others: Others) -> None:
    net, x = Net(), torch.randn(3, 8)
    together = Sums(list(net.parameters()), single=True)
    for _ in range(2):
        with together.backward():
            net(x).backward()
        together.finish()
    with pytest.raises(RuntimeError, match="had none in the step before"), together.backward():
        net(net.unused(x)).backward()
    others.sent.clear()


def test_a_silent_pass_is_heard_by_nobody(others: Others) -> None:
    net, x = Net(), torch.randn(3, 8)
    for single in (True, False):
        net.zero_grad()
        together = Sums(list(net.parameters()), single=single)
        with together.silent(), together.backward():
            net(x).backward()
        assert not others.sent
        assert net.layers[0].weight.grad is not None
