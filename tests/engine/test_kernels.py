"""The residual LayerNorm's kernels against torch in fp64. Run on CUDA, or in Triton's interpreter."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="needs triton, which torch brings with CUDA")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from loratory.engine.kernels import add_norm, add_norm_backward, drop  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _processors(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        few = SimpleNamespace(multi_processor_count=1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: few)


@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("width", [32, 48, 768, 1024])
def test_result_and_gradients_agree_with_fp64(width: int, dropout: float, dtype: torch.dtype) -> None:
    branch, residual, grad = (torch.randn(11, width).to(DEVICE, dtype) for _ in range(3))
    weight, bias = (torch.randn(width, device=DEVICE) for _ in range(2))
    seed = torch.tensor([5], device=DEVICE)
    result, kept = add_norm(branch, residual, weight, bias, 1e-5, dropout, seed, 3)
    ours = add_norm_backward(grad, kept, weight, dropout, seed, 3, weights=True)
    exact = [x.double().requires_grad_() for x in (branch, residual, weight, bias)]
    mask = torch.ones_like(exact[0])
    if dropout > 0:  # which were dropped shows where the branch has no gradient
        mask = ours[0].ne(0).double() / (1 - dropout)
        assert float(mask.eq(0).double().mean()) == pytest.approx(dropout, abs=0.1)
    expected = F.layer_norm(exact[1] + exact[0] * mask, (width,), exact[2], exact[3], 1e-5)
    expected.backward(grad.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in ((result, expected.detach()), *zip(ours, (x.grad for x in exact), strict=True)):
        assert one is not None
        assert other is not None
        assert float(torch.linalg.vector_norm(one.double() - other)) < tolerance * float(
            torch.linalg.vector_norm(other)
        )
    without = add_norm_backward(grad, kept, weight, dropout, seed, 3, weights=False)
    assert without[2:] == (None, None)
    assert torch.equal(without[0], ours[0])
    assert torch.equal(without[1], ours[1])


@pytest.mark.parametrize("width", [48, 768])
def test_dropout_alone_is_drawn_again_alike_and_adds_to_what_is_there(width: int) -> None:
    x, there, seed = (*torch.randn(2, 9, width, device=DEVICE), torch.tensor([5], device=DEVICE))
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
        return add_norm(branch, residual, one, zero, 1e-5, 0.5, torch.tensor([seed], device=DEVICE), site)[0]

    assert torch.equal(draw(1, 1), draw(1, 1))
    assert not torch.equal(draw(1, 1), draw(1, 2))
    assert not torch.equal(draw(1, 1), draw(2, 1))
