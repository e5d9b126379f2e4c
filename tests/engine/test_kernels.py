"""The residual LayerNorm's kernels against torch in fp64. Run on CUDA, or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from triton_here import DEVICE, INTERPRETED

from loratory.engine.draws import Seeds
from loratory.engine.kernels import add_norm, add_norm_backward, column_sums, drop, gelu_backward


def relative_error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(ours.double() - exact) / torch.linalg.vector_norm(exact))


@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("rows", "width"), [(150, 32), (11, 48), (37, 768), (5000, 768), (11, 1024)])
def test_result_and_gradients_agree_with_fp64(rows: int, width: int, dropout: float, dtype: torch.dtype) -> None:
    if INTERPRETED and rows > 1000:
        pytest.skip("takes the interpreter minutes")
    branch, residual, grad = (torch.randn(rows, width).to(DEVICE, dtype) for _ in range(3))
    weight, bias = (torch.randn(width, device=DEVICE) for _ in range(2))
    seed = Seeds(torch.tensor([5], device=DEVICE))
    result, kept = add_norm(branch, residual, weight, bias, 1e-5, dropout, seed, 3)
    ours = add_norm_backward(grad, kept, weight, dropout, seed, 3, weights=True, summed=True)
    exact = [x.double().requires_grad_() for x in (branch, residual, weight, bias)]
    mask = torch.ones_like(exact[0])
    if dropout > 0:  # which were dropped shows where the branch has no gradient
        mask = ours[0].ne(0).double() / (1 - dropout)
        assert float(mask.eq(0).double().mean()) == pytest.approx(dropout, abs=0.1)
    expected = F.layer_norm(exact[1] + exact[0] * mask, (width,), exact[2], exact[3], 1e-5)
    expected.backward(grad.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    gradients = [x.grad for x in exact if x.grad is not None]
    mine = [*ours[:2], *ours[2]]
    for one, other in ((result, expected.detach()), *zip(mine, [*gradients, gradients[0].sum(0)], strict=True)):
        assert relative_error(one, other) < tolerance
    without = add_norm_backward(grad, kept, weight, dropout, seed, 3, weights=False)
    assert without[2] == []
    for one, other in zip(without[:2], ours[:2], strict=True):  # of another compilation: one rounding may differ
        assert torch.equal(one.eq(0), other.eq(0))
        torch.testing.assert_close(one, other, rtol=torch.finfo(dtype).eps, atol=0)
    (alone,) = add_norm_backward(grad, kept, weight, dropout, seed, 3, weights=False, summed=True)[2]
    assert torch.equal(alone, ours[2][2])


@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "width"), [(37, 96), (300, 130), (5000, 3072)])
def test_gelu_comes_back_with_its_gradient_and_sum(rows: int, width: int, dtype: torch.dtype) -> None:
    if INTERPRETED and rows > 1000:
        pytest.skip("takes the interpreter minutes")
    grad, inner = (torch.randn(rows, width).to(DEVICE, dtype) for _ in range(2))
    ours, active, summed = gelu_backward(grad, inner, active=True, summed=True)
    exact = inner.double().requires_grad_()
    F.gelu(exact).backward(grad.double())
    assert exact.grad is not None
    assert active is not None
    assert summed is not None
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in ((active, F.gelu(exact.detach())), (ours, exact.grad), (summed, exact.grad.sum(0))):
        assert relative_error(one, other) < tolerance
    assert relative_error(column_sums(ours), ours.double().sum(0)) < 1e-5
    alone = gelu_backward(grad, inner, active=False, summed=False)
    assert torch.equal(alone[0], ours)
    assert alone[1:] == (None, None)


@pytest.mark.parametrize("width", [48, 768])
def test_dropout_alone_is_drawn_again_alike_and_adds_to_what_is_there(width: int) -> None:
    x, there, seed = (*torch.randn(2, 9, width, device=DEVICE), Seeds(torch.tensor([5], device=DEVICE)))
    once = drop(x, 0.3, seed, 2)
    mask = once.ne(0)
    assert float(mask.float().mean()) == pytest.approx(0.7, abs=0.08)
    torch.testing.assert_close(once, x * mask / 0.7)
    into = there.clone()
    assert drop(x, 0.3, seed, 2, into=into) is into
    torch.testing.assert_close(into, there + once)
    assert not torch.equal(drop(x, 0.3, seed, 3).ne(0), mask)


def test_masks_depend_on_seed_and_site() -> None:
    branch, residual = torch.randn(4, 64, device=DEVICE), torch.zeros(4, 64, device=DEVICE)
    one, zero = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)

    def draw(seed: int, site: int) -> torch.Tensor:
        seeds = Seeds(torch.tensor([seed], device=DEVICE))
        return add_norm(branch, residual, one, zero, 1e-5, 0.5, seeds, site)[0]

    assert torch.equal(draw(1, 1), draw(1, 1))
    assert not torch.equal(draw(1, 1), draw(1, 2))
    assert not torch.equal(draw(1, 1), draw(2, 1))


@pytest.mark.parametrize("width", [48, 768])
def test_a_cohorts_member_draws_what_it_would_draw_alone(width: int) -> None:
    """Dropout alone, by each member's own probability, and before a norm; filler is the last one's."""
    bounds = [0, 7, 7, 20, 26]
    owner = torch.tensor([0] * 7 + [2] * 13 + [3] * 9, device=DEVICE)
    seeds = torch.tensor([5, 6, 2**31 - 1, 5], device=DEVICE)
    own = Seeds(seeds, owner, torch.tensor(bounds, dtype=torch.int32, device=DEVICE))
    dropouts = torch.tensor([0.3, 0.5, 0.0, 0.1], device=DEVICE)
    x, residual, grad = torch.randn(3, 29, width, device=DEVICE)
    weight, bias = torch.randn(2, width, device=DEVICE)
    dropped = drop(x, dropouts, own, 4)
    result, kept = add_norm(x, residual, weight, bias, 1e-5, 0.3, own, 3)
    ours = add_norm_backward(grad, kept, weight, 0.3, own, 3, weights=False)
    for member, (first, last) in enumerate(zip(bounds, [*bounds[1:-1], 29], strict=False)):
        alone, rows = Seeds(seeds[member : member + 1]), slice(first, last)
        if first == last:
            continue
        torch.testing.assert_close(dropped[rows], drop(x[rows], float(dropouts[member]), alone, 4), rtol=0, atol=1e-6)
        expected, kept_alone = add_norm(x[rows], residual[rows], weight, bias, 1e-5, 0.3, alone, 3)
        theirs = add_norm_backward(grad[rows], kept_alone, weight, 0.3, alone, 3, weights=False)
        for one, other in ((result[rows], expected), *zip((part[rows] for part in ours[:2]), theirs[:2], strict=True)):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
