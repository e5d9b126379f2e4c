"""The CUDA kernels of attention against its definition in fp64. Runs on CUDA, or in Triton's interpreter."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from triton_here import DEVICE, INTERPRETED

from loratory.models.attention import LONG, SHORT, attention

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton's interpreter

DTYPES = [torch.float32] if INTERPRETED else [torch.bfloat16]


def reference(
    q: Tensor, k: Tensor, v: Tensor, bounds: list[int], scale: float, window: int | None, causal: bool
) -> Tensor:
    parts = []
    for start, end in pairwise(bounds):
        a, b, c = (x[start:end].transpose(0, 1) for x in (q, k, v))
        scores = scale * a @ b.transpose(1, 2)
        places = torch.arange(end - start, device=q.device)
        if window is not None:
            scores = scores.masked_fill((places[:, None] - places).abs() > window, -torch.inf)
        if causal:
            scores = scores.masked_fill(places > places[:, None], -torch.inf)
        parts.append((scores.softmax(-1) @ c).transpose(0, 1))
    return torch.cat(parts)


def error(result: Tensor, expected: Tensor) -> float:
    result, expected = result.detach().double(), expected.detach()
    return float(torch.linalg.vector_norm(result - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("width", [16, 32, 64] if INTERPRETED else [32, 64])
@pytest.mark.parametrize("longest", [SHORT, LONG])
def test_every_length_agrees_with_fp64(
    longest: int, width: int, window: int | None, causal: bool, dtype: torch.dtype
) -> None:
    lengths = [*range(1, SHORT + 1)] if longest == SHORT else [1, 31, *range(SHORT - 2, 516, 3), 1023, LONG]
    if INTERPRETED:
        lengths = [1, 27, 32, 33, 64, 65, 128] if longest == SHORT else [1, 64, 130, 257]
    lengths = [*lengths, 0, 7, 0]  # empty sequences, too
    generator = torch.Generator().manual_seed(width)
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    whole = torch.randn(bounds[-1], 3, 2, width, generator=generator).to(DEVICE, dtype)
    grad = torch.randn(bounds[-1], 2, width, generator=generator).to(DEVICE, dtype)
    leaf = whole.clone().requires_grad_()
    out = attention(
        *leaf.unbind(1),
        torch.tensor(bounds, dtype=torch.int32, device=DEVICE),
        longest=longest,
        scale=0.3,
        window=window,
        causal=causal,
    )
    out.backward(grad)
    exact = whole.double().requires_grad_()
    expected = reference(*exact.unbind(1), bounds, 0.3, window, causal)
    expected.backward(grad.double())
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert leaf.grad is not None
    assert exact.grad is not None
    assert error(out, expected.detach()) < tolerance
    for start, end in pairwise(bounds):
        if end > start:
            assert error(out[start:end], expected[start:end].detach()) < tolerance
    for part in range(3):
        assert error(leaf.grad[:, part], exact.grad[:, part]) < tolerance, "qkv"[part]


@pytest.mark.parametrize("longest", [16, 50, 100])
def test_a_smaller_tile_gives_the_same(longest: int) -> None:
    lengths = [longest, 1, longest // 2]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
    q, k, v = (torch.randn(sum(lengths), 2, 32).to(DEVICE, DTYPES[0]) for _ in range(3))
    one = attention(q, k, v, bounds, longest=longest, scale=0.2)
    assert torch.equal(one, attention(q, k, v, bounds, longest=128, scale=0.2))


@pytest.mark.parametrize("longest", [64, LONG])
def test_dropout_keeps_its_share_and_backward_draws_the_same_mask(longest: int) -> None:
    count, width, p = 48, 64, 0.3
    bounds = torch.tensor([0, count, 2 * count], dtype=torch.int32, device=DEVICE)

    def attend(q: Tensor, k: Tensor, v: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return attention(q, k, v, bounds, longest=longest, scale=0.3, dropout=p)

    # with equal scores and the identity for V, the result is the mask over the number of keys
    none = torch.zeros(2 * count, 2, width, device=DEVICE, dtype=DTYPES[0])
    eye = torch.eye(count, width).repeat(2, 1)[:, None].expand(-1, 2, -1).to(none)
    seen = attend(none, none, eye, 1)[..., :count]
    assert torch.equal(seen, attend(none, none, eye, 1)[..., :count])
    assert not torch.equal(seen, attend(none, none, eye, 2)[..., :count])
    mask = seen.ne(0).double() / (1 - p)  # (T, H, keys)
    assert float(mask.eq(0).double().mean()) == pytest.approx(p, abs=0.02)
    q, k, v, grad = (torch.randn(2 * count, 2, width).to(none) for _ in range(4))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attend(leaves[0], leaves[1], leaves[2], 1)
    out.backward(grad)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    parts = []
    for start in (0, count):
        a, b, c = (x[start : start + count].transpose(0, 1) for x in exact)
        kept = mask[start : start + count].transpose(0, 1)
        parts.append((((0.3 * a @ b.transpose(1, 2)).softmax(-1) * kept) @ c).transpose(0, 1))
    expected = torch.cat(parts)
    expected.backward(grad.double())
    tolerance = 1e-2 if DTYPES[0] == torch.bfloat16 else 1e-5
    assert error(out, expected) < tolerance
    for one, other in zip(leaves, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert error(one.grad, other.grad) < tolerance


@pytest.mark.parametrize("longest", [64, LONG])
def test_side_by_side_gives_the_same_as_apart(longest: int) -> None:
    bounds = torch.tensor([0, 9, 50], dtype=torch.int32, device=DEVICE)
    packed = torch.randn(50, 3, 2, 32).to(DEVICE, DTYPES[0]).requires_grad_()
    apart = [part.detach().clone().requires_grad_() for part in packed.unbind(1)]
    grad = torch.randn(50, 2, 32).to(packed)
    one = attention(packed, None, None, bounds, longest=longest, scale=0.2)
    two = attention(apart[0], apart[1], apart[2], bounds, longest=longest, scale=0.2)
    assert torch.equal(one, two)
    one.backward(grad)
    two.backward(grad)
    assert packed.grad is not None
    for part, leaf in zip(packed.grad.unbind(1), apart, strict=True):
        assert leaf.grad is not None
        assert torch.equal(part, leaf.grad)


def test_scores_far_from_zero_stay_finite() -> None:
    """A key that is not there must not come in as 2^-L, which overflows where all scores are very negative."""
    bounds = torch.tensor([0, 140], dtype=torch.int32, device=DEVICE)
    q = torch.full((140, 1, 32), 4.0).to(DEVICE, DTYPES[0]).requires_grad_()
    k = torch.full((140, 1, 32), -4.0).to(DEVICE, DTYPES[0]).requires_grad_()
    v = torch.randn(140, 1, 32).to(DEVICE, DTYPES[0]).requires_grad_()
    out = attention(q, k, v, bounds, longest=LONG, scale=1.0)
    out.sum().backward()
    assert error(out, v.detach().double().mean(0).expand_as(out)) < 1e-2
    for leaf in (q, k, v):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
