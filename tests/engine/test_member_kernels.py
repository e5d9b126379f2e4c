"""The products of a cohort's adapters as kernels, against a loop over the members. On CUDA, or in the interpreter."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from triton_here import DEVICE, INTERPRETED

from loratory.engine.draws import Seeds
from loratory.engine.kernels import add_norm, add_norm_backward
from loratory.engine.member_kernels import adamw, narrow, outer, sums, widen

TYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16]
BOUNDS = [0, 70, 70, 71, 200, 264]
"""Five members: of a tile and a bit, of no row, of one, of two tiles and a bit, of one tile."""


def near(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    error = torch.linalg.vector_norm(found.double() - exact) / torch.linalg.vector_norm(exact)
    assert float(error) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("width", "rank"), [(64, 16), (100, 48), (768, 144)])
def test_each_row_takes_its_members_matrix(width: int, rank: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    members, rows = len(BOUNDS) - 1, BOUNDS[-1] + 9  # the last nine belong to nobody
    bounds = torch.tensor(BOUNDS, dtype=torch.int32, device=DEVICE)
    wide = torch.randn(rows, width + 32).to(DEVICE, dtype)
    x = wide[:, 32:]  # columns of a wider matrix
    a, b = (torch.randn(members, *shape).to(DEVICE, dtype) for shape in ((rank, width), (width, rank)))
    scale = torch.rand(members, rank, device=DEVICE)
    hidden = torch.full((rows, rank), 7.0).to(DEVICE, dtype)
    narrow(x, a, scale, bounds, 129, hidden)
    assert bool((hidden[BOUNDS[-1] :] == 7).all())
    narrowed = torch.zeros(rows, rank, device=DEVICE, dtype=dtype)
    narrow(x, b.transpose(1, 2), scale, bounds, 129, narrowed)
    y = torch.randn(rows, width).to(DEVICE, dtype)
    widened = y.clone()
    widen(hidden, b, bounds, 129, widened)
    of_a = torch.empty(members, rank, width, device=DEVICE)
    outer(hidden, x, bounds, of_a)
    of_b = torch.empty(members, rank, width, device=DEVICE).transpose(1, 2)
    outer(x, hidden, bounds, of_b)
    for member, (first, last) in enumerate(pairwise(BOUNDS)):
        rows_of = slice(first, last)
        if first == last:
            assert not of_a[member].any()
            continue
        exact = {name: one.double() for name, one in (("x", x), ("a", a[member]), ("b", b[member]), ("h", hidden))}
        near(hidden[rows_of], exact["x"][rows_of] @ exact["a"].t() * scale[member], dtype)
        near(narrowed[rows_of], exact["x"][rows_of] @ exact["b"] * scale[member], dtype)
        near(widened[rows_of], y[rows_of].double() + exact["h"][rows_of] @ exact["b"].t(), dtype)
        near(of_a[member], exact["h"][rows_of].t() @ exact["x"][rows_of], dtype)
        near(of_b[member], exact["x"][rows_of].t() @ exact["h"][rows_of], dtype)
    assert torch.equal(widened[BOUNDS[-1] :], y[BOUNDS[-1] :])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_numbers_that_are_none_stay_with_their_member(dtype: torch.dtype) -> None:
    bounds = torch.tensor([0, 5, 9], dtype=torch.int32, device=DEVICE)
    x, weight = torch.ones(9, 32).to(DEVICE, dtype), torch.ones(2, 16, 32).to(DEVICE, dtype)
    x[:5], weight[0] = float("nan"), float("inf")
    hidden = torch.zeros(9, 16, device=DEVICE, dtype=dtype)
    narrow(x, weight, torch.ones(2, 16, device=DEVICE), bounds, 5, hidden)
    back = torch.zeros(9, 32, device=DEVICE, dtype=dtype)
    widen(hidden, weight.transpose(1, 2).contiguous(), bounds, 5, back)
    gradient = torch.empty(2, 16, 32, device=DEVICE)
    outer(hidden, x, bounds, gradient)
    for found, expected in ((hidden[5:], 32.0), (back[5:], 512.0), (gradient[1], 128.0)):
        assert bool((found == expected).all())
    assert bool(hidden[:5].isnan().all())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", [100, 768])
def test_each_row_is_normed_by_its_members_scale_and_shift(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    members, rows = len(BOUNDS) - 1, BOUNDS[-1]
    bounds = torch.tensor(BOUNDS, dtype=torch.int32, device=DEVICE)
    owner = torch.searchsorted(bounds[1:-1], torch.arange(rows, dtype=torch.int32, device=DEVICE), right=True)
    branch, residual, grad = (torch.randn(rows, width).to(DEVICE, dtype) for _ in range(3))
    weight, bias = (torch.randn(members, width + more, device=DEVICE)[:, more:] for more in (16, 48))
    seeds = Seeds(torch.zeros(members, dtype=torch.int64, device=DEVICE), owner, bounds)
    y, kept = add_norm(branch, residual, weight, bias, 1e-5, 0.0, seeds, 1)
    of_branch, of_residual, _ = add_norm_backward(grad, kept, weight, 0.0, seeds, 1, weights=False)
    shift, scale = sums(grad, bounds, kept)
    alone, _ = sums(grad[:, 32:], bounds)
    for member, (first, last) in enumerate(pairwise(BOUNDS)):
        mine = slice(first, last)
        x = kept[0][mine].double().requires_grad_()  # as it was rounded
        w, b = (one[member].double().requires_grad_() for one in (weight, bias))
        exact = torch.nn.functional.layer_norm(x, (width,), w, b, 1e-5)
        exact.backward(grad[mine].double())
        assert all(one.grad is not None for one in (x, w, b))
        if first == last:
            assert not shift[member].any()
            continue
        near(kept[0][mine], branch[mine].double() + residual[mine].double(), dtype)
        near(y[mine], exact.detach(), dtype)
        near(of_branch[mine], x.grad, dtype)
        near(of_residual[mine], x.grad, dtype)
        near(scale[member], w.grad, dtype)
        near(shift[member], b.grad, dtype)
        near(alone[member], b.grad[32:], dtype)


def test_each_member_makes_a_step_of_adamw_of_its_own() -> None:
    torch.manual_seed(0)
    members, width, betas, eps = 3, 2500, (0.9, 0.999), 1e-8
    rates, decays = [1e-2, 2e-3, 0.0], [0.1, 0.1, 0.0]
    weights = torch.randn(members, width).to(DEVICE)
    alone = [torch.nn.Parameter(part.clone()) for row in weights for part in (row[:1500], row[1500:])]
    groups = [
        {
            "params": [alone[2 * member + part]],
            "lr": rates[member],
            "weight_decay": decays[member] if part == 0 else 0.0,
        }
        for member in range(members)
        for part in (0, 1)
    ]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps)
    decayed = torch.zeros(width, device=DEVICE)
    decayed[:1500] = 1
    moments = torch.zeros_like(weights), torch.zeros_like(weights)
    clip, rate, decay = (torch.tensor(one, device=DEVICE) for one in ([1.0, 0.5, 0.25], rates, decays))
    for step in (1, 2, 3):
        gradients = torch.randn(members, width).to(DEVICE)
        if step == 3:
            clip[1] = torch.nan  # as where a gradient is not finite
        for member in range(members):
            for part, columns in enumerate((slice(0, 1500), slice(1500, None))):
                alone[2 * member + part].grad = gradients[member, columns] * clip[member]
        optimizer.step()
        corrections = torch.tensor([1 - beta**step for beta in betas], device=DEVICE)
        adamw(
            weights, gradients, moments, decayed, clip=clip, rate=rate, decay=decay, corrections=corrections,
            betas=betas, eps=eps,
        )  # fmt: skip
    state = [optimizer.state[one] for one in alone]
    of_first, of_second = ([one[name] for one in state] for name in ("exp_avg", "exp_avg_sq"))
    for found, parts in ((weights, alone), (moments[0], of_first), (moments[1], of_second)):
        expected = torch.cat([part.detach() for part in parts])
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert weights[[0, 2]].isfinite().all()
    assert weights[1].isnan().all()
