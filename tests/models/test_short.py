"""Attention for short sequences against its definition in fp64. Runs on CUDA, or in Triton's interpreter."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton, which torch brings with CUDA")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from loratory.models.flat import SHORT  # noqa: E402
from loratory.models.short import short_attention  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32] if INTERPRETED else [torch.bfloat16, torch.float32]


def reference(q: Tensor, k: Tensor, v: Tensor, bounds: list[int], scale: float, window: int | None) -> Tensor:
    parts = []
    for start, end in pairwise(bounds):
        a, b, c = (x[start:end].transpose(0, 1) for x in (q, k, v))
        scores = scale * a @ b.transpose(1, 2)
        if window is not None:
            places = torch.arange(end - start, device=q.device)
            scores = scores.masked_fill((places[:, None] - places).abs() > window, -torch.inf)
        parts.append((scores.softmax(-1) @ c).transpose(0, 1))
    return torch.cat(parts)


def error(result: Tensor, expected: Tensor) -> float:
    result, expected = result.detach().double(), expected.detach()
    return float(torch.linalg.vector_norm(result - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("width", [16, 32, 64])
def test_every_length_agrees_with_fp64(width: int, window: int | None, dtype: torch.dtype) -> None:
    lengths = [1, 27, 32, 33, 64, 65, 128] if INTERPRETED else [*range(1, SHORT + 1)]
    lengths = [*lengths, 0, 7, 0]  # empty sequences, too
    generator = torch.Generator().manual_seed(width)
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    whole = torch.randn(bounds[-1], 3, 2, width, generator=generator).to(DEVICE, dtype)
    grad = torch.randn(bounds[-1], 2, width, generator=generator).to(DEVICE, dtype)
    leaf = whole.clone().requires_grad_()
    out = short_attention(
        *leaf.unbind(1), torch.tensor(bounds, dtype=torch.int32, device=DEVICE), longest=128, scale=0.3, window=window
    )
    out.backward(grad)
    exact = whole.double().requires_grad_()
    expected = reference(*exact.unbind(1), bounds, 0.3, window)
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
    q, k, v = (torch.randn(sum(lengths), 2, 32, device=DEVICE) for _ in range(3))
    one = short_attention(q, k, v, bounds, longest=longest, scale=0.2)
    assert torch.equal(one, short_attention(q, k, v, bounds, longest=128, scale=0.2))


def test_dropout_keeps_its_share_and_backward_draws_the_same_mask() -> None:
    count, width, p = 48, 16, 0.3
    bounds = torch.tensor([0, count, 2 * count], dtype=torch.int32, device=DEVICE)
    q, k = (torch.randn(2 * count, 2, width, device=DEVICE) for _ in range(2))

    def attend(v: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return short_attention(q, k, v, bounds, longest=64, scale=0.1, dropout=p)

    v = torch.zeros(2 * count, 2, width, device=DEVICE)
    v[:, :] = torch.eye(width, device=DEVICE).repeat(2 * count // width, 1)[:, None]
    assert torch.equal(attend(v, 1), attend(v, 1))
    assert not torch.equal(attend(v, 1), attend(v, 2))
    # P is nearly uniform and linear in V: the mean over many draws is the result without dropout
    plain = short_attention(q, k, v, bounds, longest=64, scale=0.1)
    mean = torch.stack([attend(v, seed) for seed in range(60)]).mean(0)
    assert error(mean, plain.double()) < 0.1
    # the gradient is that of the very function that forward computed
    for name in ("q", "k", "v"):
        tensors: dict[str, Any] = {"q": q, "k": k, "v": torch.randn_like(v)}
        tensors[name] = tensors[name].clone().requires_grad_()

        def run(values: dict[str, Any]) -> Tensor:
            torch.manual_seed(7)
            return (
                short_attention(values["q"], values["k"], values["v"], bounds, longest=64, scale=0.5, dropout=p)
                .square()
                .sum()
            )

        run(tensors).backward()
        step = torch.randn_like(q) * 1e-2
        with torch.no_grad():
            up, down = (run({**tensors, name: tensors[name] + sign * step}).double() for sign in (1, -1))
        assert float((tensors[name].grad * step).sum()) == pytest.approx(float(up - down) / 2, rel=2e-2, abs=1e-3)
