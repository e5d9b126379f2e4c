"""Training layers of BERT's shape: what transformers' and PEFT's modules compute, with less launched and less kept.

BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA and DistilBERT share one layer:

    a = attention(x·Wqkvᵀ)      y = LN(x + drop(a·Woᵀ))      z = LN(y + drop(gelu(y·W1ᵀ)·W2ᵀ))

Each linear layer may carry a low-rank update W + s·B·A (Hu et al. 2021). Three things are done otherwise than a module
at a time: layers that share an input (query, key, value and their A's) are one product; a frozen weight costs no
product in backward and keeps no input; the residual's gradient is the sum into which the product adds its own. Under
autocast all that layers hand on is held in the lower precision, where autocast on CUDA would keep LayerNorm's result in
fp32; inside, LayerNorm and softmax are computed in fp32.

Within `quickened` the layers of a model compute so; names and values of parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.draws import Draws, kernels
from loratory.engine.groups import Group, Shadows, joins
from loratory.engine.hardware import Hardware
from loratory.engine.modules import Dropout, stand_in
from loratory.models.flat_attention import ATTENTION, Layout, attend_packed


class _Project(torch.autograd.Function):
    """A group by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, training: bool, *parameters: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y, kept = group.forward(x, training=training)
        ctx.save_for_backward(x if group.keeps_input else None, *kept)
        ctx.group, ctx.training, ctx.wanted = group, training, ctx.needs_input_grad[0]
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        group, training, grad = ctx.group, ctx.training, gradients[0].contiguous()
        inner = group.inner(grad)
        parameters = group.gradients(grad, inner, x, kept, training=training)
        result = group.backward(grad, inner, kept, training=training) if ctx.wanted else None
        return result, None, None, *parameters


class AddNorm:
    """LN(residual + drop(branch)); Triton kernels on CUDA, torch's own on the CPU."""

    def __init__(self, norm: nn.LayerNorm, dropout: nn.Module | None, draws: Draws) -> None:
        self.norm, self.drop, self._draws, self._site = norm, dropout, draws, draws.site()
        self.free = bool(norm.weight.requires_grad), bool(norm.bias.requires_grad)
        self.parameters: list[Tensor] = [one for one in (norm.weight, norm.bias) if one.requires_grad]

    def forward(self, branch: Tensor, residual: Tensor, *, training: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result (T, H), and what backward needs; its fourth tensor, where there is one, is the mask."""
        norm = self.norm
        if branch.is_cuda:
            return self._fused(branch, residual, norm.weight, norm.bias, training=training)
        x, mask = self._added(branch, residual, training=training)
        y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        return y, (x, mean, rstd, *mask)

    def backward(
        self, grad: Tensor, kept: Sequence[Tensor], *, training: bool, summed: bool
    ) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
        """The gradients of branch, residual (T, H) and `parameters`; the branch's sum over T where `summed` asks for it
        and it costs nothing. The first two may be one tensor."""
        x, mean, rstd, *mask = kept
        if x.is_cuda:
            branch, residual, sums = self._fused_backward(
                grad, (x, mean, rstd), self.norm.weight, training=training, weights=any(self.free), summed=summed
            )
            return branch, residual, self._trained(sums[:2]), sums[-1] if summed else None
        residual, weight, bias = torch.ops.aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, rstd, self.norm.weight, self.norm.bias, [True, *self.free]
        )
        branch = residual * mask[0] if mask else residual
        return branch, residual, self._trained([weight, bias]), None

    def _p(self, training: bool) -> float:
        return float(getattr(self.drop, "p", 0.0)) if training else 0.0

    def _added(self, branch: Tensor, residual: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """residual + drop(branch) on a CPU, and the mask where there is one."""
        p = self._p(training)
        mask = [self._draws.mask(branch, p)] if p > 0 else []
        return torch.addcmul(residual, branch, mask[0]) if mask else residual + branch, mask

    def _fused(
        self, branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *, training: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        seeds, p = self._draws.seeds(len(branch)), self._p(training)
        made: tuple[Tensor, tuple[Tensor, ...]]
        made = kernels().add_norm(branch, residual, weight, bias, self.norm.eps, p, seeds, self._site)
        return made

    def _fused_backward(
        self,
        grad: Tensor,
        kept: tuple[Tensor, Tensor, Tensor],
        weight: Tensor,
        *,
        training: bool,
        weights: bool,
        summed: bool,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        seeds, p = self._draws.seeds(len(grad)), self._p(training)
        made: tuple[Tensor, Tensor, list[Tensor]]
        made = kernels().add_norm_backward(
            grad, kept, weight, p, seeds, self._site, weights=weights, summed=summed
        )  # fmt: skip
        return made

    def _trained(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Of the gradients of weight and bias those that are asked for."""
        return [one for one, free in zip(sums, self.free, strict=False) if free]


def _gelu_backward(
    grad: Tensor, inner: Tensor, *, active: bool, summed: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `kernels.gelu_backward`; on a CPU the sum is left to whoever needs it."""
    if inner.is_cuda:
        made: tuple[Tensor, Tensor | None, Tensor | None]
        made = kernels().gelu_backward(grad, inner, active=active, summed=summed)
        return made
    return torch.ops.aten.gelu_backward(grad, inner), F.gelu(inner) if active else None, None


class _Rest(torch.autograd.Function):
    """All of a layer behind attention: (attended, x) -> z."""

    @staticmethod
    def forward(ctx: Any, attended: Tensor, x: Tensor, layer: Layer, training: bool, *parameters: Tensor) -> Tensor:
        """(T, H) each -> (T, H); `parameters` are those of the layer's parts in their order, given for autograd."""
        with torch.autocast(x.device.type, enabled=False):
            mixed, kept_out = layer.out.forward(attended, training=training)
            y, kept_first = layer.first.forward(mixed, x, training=training)
            inner, kept_up = layer.up.forward(y, training=training)
            active = F.gelu(inner)
            outer, kept_down = layer.down.forward(active, training=training)
            z, kept_second = layer.second.forward(outer, y, training=training)
        # where backward needs GELU's result: a CPU takes longer to compute it again than to keep it, a GPU does not
        active_kept = active if layer.down.keeps_input and not x.is_cuda else None
        parts: list[Sequence[Tensor | None]] = [
            [attended if layer.out.keeps_input else None, y if layer.up.keeps_input else None, inner, active_kept],
            kept_out, kept_first, kept_up, kept_down, kept_second,
        ]  # fmt: skip
        ctx.save_for_backward(*(tensor for part in parts for tensor in part))
        ctx.sizes, ctx.layer, ctx.training = [len(part) for part in parts], layer, training
        ctx.wanted = ctx.needs_input_grad[:2]
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `attended`, `x` (T, H) and the parameters."""
        saved, layer = iter(ctx.saved_tensors), ctx.layer
        parts = [[next(saved) for _ in range(size)] for size in ctx.sizes]
        (attended, y, inner, active), kept_out, kept_first, kept_up, kept_down, kept_second = parts
        training = ctx.training
        grad, grad_y, of_second, summed = layer.second.backward(
            gradients[0].contiguous(), kept_second, training=training, summed=layer.down.wants_sum
        )
        low = layer.down.inner(grad)
        through = layer.down.backward(grad, low, kept_down, training=training)
        through, again, summed_up = _gelu_backward(
            through, inner, active=active is None and layer.down.keeps_input, summed=layer.up.wants_sum
        )
        active = again if active is None else active
        of_down = layer.down.gradients(grad, low, active, kept_down, training=training, summed=summed)
        low = layer.up.inner(through)
        of_up = layer.up.gradients(through, low, y, kept_up, training=training, summed=summed_up)
        grad_y = layer.up.backward(through, low, kept_up, training=training, into=grad_y)
        grad, grad_x, of_first, summed = layer.first.backward(
            grad_y, kept_first, training=training, summed=layer.out.wants_sum
        )
        low = layer.out.inner(grad)
        of_out = layer.out.gradients(grad, low, attended, kept_out, training=training, summed=summed)
        grad = layer.out.backward(grad, low, kept_out, training=training) if ctx.wanted[0] else None
        return grad, grad_x if ctx.wanted[1] else None, None, None, *of_out, *of_first, *of_up, *of_down, *of_second


@dataclass(frozen=True)
class Shape:
    """Where a family keeps the modules of BERT's layer, and what its configuration calls activation and heads."""

    activation: str
    heads: str
    query: str
    key: str
    value: str
    attention_dropout: str
    out: str
    first_dropout: str | None
    first: str
    up: str
    down: str
    second_dropout: str
    second: str

    def modules(self, layer: nn.Module) -> list[nn.Module] | None:
        """The linear layers and norms of `layer`; None where it is of another shape."""
        paths = (self.query, self.key, self.value, self.out, self.first, self.up, self.down, self.second)
        if not hasattr(layer, self.query.partition(".")[0]):  # most modules
            return None
        named = dict(layer.named_modules())
        return [named[path] for path in paths] if all(path in named for path in paths) else None


SHAPES = (
    Shape(
        "hidden_act", "num_attention_heads", "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.self.dropout", "attention.output.dense", "attention.output.dropout", "attention.output.LayerNorm",
        "intermediate.dense", "output.dense", "output.dropout", "output.LayerNorm",
    ),
    Shape(
        "activation", "n_heads", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.dropout",
        "attention.out_lin", None, "sa_layer_norm", "ffn.lin1", "ffn.lin2", "ffn.dropout", "output_layer_norm",
    ),
)  # fmt: skip
"""BERT and all that copy its names; DistilBERT, which drops nothing before its first norm."""


class Layer:
    """One of BERT's layers, computed as the module's docstring says."""

    def __init__(
        self,
        layer: nn.Module,
        shape: Shape,
        heads: int,
        dtype: torch.dtype,
        group: Callable[[Sequence[nn.Module]], Group],
        norm: Callable[[Any, nn.Module | None], AddNorm],
    ) -> None:
        """
        Args:
            group: makes one of linear layers that share their input.
            norm: makes one of a LayerNorm and the dropout before it, if there is one.
        """
        part = layer.get_submodule
        self.module, self.dtype, self.heads = layer, dtype, heads
        self.attention_dropout: Any = part(shape.attention_dropout)
        self.project = group([part(shape.query), part(shape.key), part(shape.value)])
        self.out = group([part(shape.out)])
        self.first = norm(part(shape.first), part(shape.first_dropout) if shape.first_dropout else None)
        self.up = group([part(shape.up)])
        self.down = group([part(shape.down)])
        self.second = norm(part(shape.second), part(shape.second_dropout))

    def __call__(
        self, hidden_states: Tensor, attention_mask: None = None, *_: Any, layout: Layout, **__: Any
    ) -> Tensor:
        """(1, T, H) -> (1, T, H), as transformers' encoders call their layers."""
        x, training = hidden_states[0].to(self.dtype), self.module.training
        mixed = _Project.apply(x, self.project, training, *self.project.parameters)  # type: ignore[no-untyped-call]
        tokens, width = x.shape
        drop = float(self.attention_dropout.p) if training else 0.0
        attended = attend_packed(mixed.view(tokens, 3, self.heads, -1), layout, dropout=drop)
        parts = (self.out, self.first, self.up, self.down, self.second)
        result: Tensor = _Rest.apply(  # type: ignore[no-untyped-call]
            attended.reshape(tokens, width), x, self, training, *(p for part in parts for p in part.parameters)
        )
        return result.unsqueeze(0)

    @property
    def random(self) -> bool:
        """Whether it draws from torch's generators: the CUDA kernels draw by a seed of their own."""
        dropped = [self.attention_dropout.p]
        if not self.out.weight.is_cuda:
            dropped += [group.dropout for group in (self.project, self.out, self.up, self.down)]
            dropped += [getattr(norm.drop, "p", 0.0) for norm in (self.first, self.second)]
        return any(p > 0 for p in dropped)

    def restore(self) -> None:
        """Let the module compute by itself again."""
        for group in (self.project, self.out, self.up, self.down):
            group.restore()


class Single:
    """A linear layer with a low-rank update, by itself: for families of another shape than BERT's."""

    def __init__(self, module: nn.Module, shadows: Shadows, draws: Draws, dtype: torch.dtype) -> None:
        self.module, self.dtype, self.group = module, dtype, Group([module], shadows, draws)

    def __call__(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """(..., I) -> (..., O)."""
        rows = x.reshape(-1, x.shape[-1]).to(self.dtype)
        y: Tensor = _Project.apply(rows, self.group, self.module.training, *self.group.parameters)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def restore(self) -> None:
        """Let the module compute by itself again."""
        self.group.restore()


@dataclass
class Quickened:
    """What computes otherwise in a quickened model."""

    parts: list[Layer | Single]
    shadows: Shadows
    draws: Draws

    def random(self, block: nn.Module) -> bool:
        """Whether `block` draws from torch's generators in training."""
        for part in self.parts:
            if part.module is block and isinstance(part, Layer):
                return part.random
        return any(isinstance(module, nn.Dropout | Dropout) and module.p > 0 for module in block.modules())

    def computes(self, block: nn.Module) -> bool:
        """Whether `block` as a whole computes otherwise."""
        return any(part.module is block for part in self.parts)

    def count(self, blocks: Sequence[nn.Module]) -> dict[str, int]:
        """How many of these layers it computes otherwise, of how many; stock modules compute the others."""
        return {"layers": sum(map(self.computes, blocks)), "of": len(blocks)}

    def refresh(self) -> None:
        """To be called before each forward pass in training."""
        self.shadows.refresh()
        self.draws.refresh()


@contextmanager
def quickened(model: nn.Module, hardware: Hardware) -> Iterator[Quickened]:
    """Let the model's layers of BERT's shape compute as :class:`Layer` does, and its other adapted linear layers as
    :class:`Single`; at the end the modules compute by themselves again."""
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    quick = Quickened([], Shadows(dtype), Draws(hardware.device))
    group = partial(Group, shadows=quick.shadows, draws=quick.draws)
    norm = partial(AddNorm, draws=quick.draws)
    taken: set[nn.Module] = set()
    for module, shape, heads in list(alike(model)):
        quick.parts.append(Layer(module, shape, heads, dtype, group, norm))
        taken.update(module.modules())
    for module in list(model.modules()):
        if isinstance(module, LoraLayer) and module not in taken and _plain(module) and not _redrawn(module, hardware):
            quick.parts.append(Single(module, quick.shadows, quick.draws, dtype))
    with ExitStack() as stack:
        for part in quick.parts:
            stack.callback(part.restore)
            stack.callback(stand_in(part.module, part.__call__))
        yield quick


def _redrawn(module: Any, hardware: Hardware) -> bool:
    """Whether kernels would draw the adapter's mask: one for each pass, though a family may call a layer more often."""
    drops = any(getattr(dropout, "p", 0.0) > 0 for dropout in module.lora_dropout.values())
    return drops and hardware.device.type == "cuda"


def alike(model: nn.Module) -> Iterator[tuple[nn.Module, Shape, int]]:
    """The layers of BERT's shape, with GELU and no update but LoRA's plain one; how they name things; their heads."""
    config: Any = model.config
    if config._attn_implementation != ATTENTION:  # padded batches are transformers' own
        return
    for shape in SHAPES:
        if getattr(config, shape.activation, None) != "gelu" or getattr(config, "is_decoder", False):
            continue
        for module in model.modules():
            parts = shape.modules(module)
            if parts is not None and all(map(_plain, parts)) and joins(parts[:3]):
                yield module, shape, int(getattr(config, shape.heads))


def _plain(module: nn.Module) -> bool:
    """A Linear or LayerNorm, or PEFT's plain LoRA on a Linear."""
    base = module
    if isinstance(module, LoraLayer):
        known: Any = module
        base = known.base_layer
        one = len(known.active_adapters) == 1 and not known.merged and not known.lora_variant
        if (
            not one
            or type(module) is not LoraLinear
            or type(base) is not nn.Linear
            or any(known.use_dora.values())
            or any(known.lora_bias.values())
        ):
            return False
    return type(base) in (nn.Linear, nn.LayerNorm)
