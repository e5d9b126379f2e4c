"""What members train, in flat memory: gradients arrive there, and are those of autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from loratory.engine.stacks import Stacks, stacked_layers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("calls", [1, 2])
def test_a_layers_gradients_are_in_its_memory_however_often_it_is_called(calls: int, bias: bool) -> None:
    torch.manual_seed(0)
    heads = [nn.Linear(5, 5, bias=bias) for _ in range(3)]
    alone = copy.deepcopy(heads)
    stacks = Stacks(len(heads))
    ((_, forward),) = stacked_layers(heads, stacks)
    stacks.allocate(torch.device("cpu"))
    rows = torch.randn(len(heads) * 4, 5)
    expected, found = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    together, apart = found, torch.stack(expected.chunk(len(heads)))
    for _ in range(calls):
        together = forward(together).tanh()
        apart = torch.stack([head(own).tanh() for head, own in zip(alone, apart, strict=True)])
    together.square().sum().backward()
    apart.square().sum().backward()
    stacks.gather()
    assert expected.grad is not None
    assert found.grad is not None
    torch.testing.assert_close(found.grad, expected.grad)
    for name in dict(alone[0].named_parameters()):
        (stack,) = (one for one in stacks.stacks if one.parameters[0] is heads[0].get_parameter(name))
        for member, head in enumerate(alone):
            torch.testing.assert_close(stack.gradient[member], head.get_parameter(name).grad)
    assert all(stack.leaf.grad is None for stack in stacks.stacks)


def test_products_are_in_the_precision_that_autocast_asks_for() -> None:
    heads = [nn.Linear(16, 3) for _ in range(2)]
    stacks = Stacks(2)
    ((_, forward),) = stacked_layers(heads, stacks)
    stacks.allocate(torch.device("cpu"))
    rows = torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found, alone = forward(rows), torch.cat([head(own) for head, own in zip(heads, rows.chunk(2), strict=True)])
    assert found.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(found, alone)
    assert forward(rows).dtype == torch.float32
