"""Training layers of BERT's shape: what transformers' and PEFT's modules compute, with less launched and less kept.

BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA share one layer:

    a = attention(x·Wqkvᵀ)      y = LN(x + drop(a·Woᵀ))      z = LN(y + drop(gelu(y·W1ᵀ)·W2ᵀ))

Each linear layer may carry a low-rank update W + s·B·A (Hu et al. 2021). Three things are done otherwise than a module
at a time: layers that share an input (query, key, value and their A's) are one product; a frozen weight costs no
product in backward and keeps no input; the residual's gradient is the sum into which the product adds its own. Under
autocast all of it is held in the lower precision; LayerNorm, softmax and weight gradients are computed in fp32.

Within `quickened` the layers of a model compute so; names and values of parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.hardware import Hardware
from loratory.engine.modules import Dropout, stand_in
from loratory.models.flat import Layout, attend_packed


class Draws:
    """A seed on the device, drawn anew for each forward pass, from which every dropout site draws its own numbers."""

    def __init__(self, device: torch.device) -> None:
        self.seed = torch.zeros(1, dtype=torch.int64, device=device)
        self._sites = 0

    def refresh(self) -> None:
        """Draw from torch's generator of the device."""
        self.seed.random_(2**31)

    def site(self) -> int:
        """A number that no other site has."""
        self._sites += 1
        return self._sites


class Shadows:
    """Copies of trained fp32 weights in the precision of products, made once a step and all together.

    Attributes:
        copies: all of them.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._originals: list[Tensor] = []
        self.copies: list[Tensor] = []
        self._scaled: list[Tensor] = []
        self._scales: list[float] = []

    def of(self, tensor: Tensor, *, scale: float = 1.0) -> Tensor:
        """What stands for `tensor` times `scale` in products."""
        tensor = tensor.detach()
        if tensor.dtype == self._dtype and scale == 1.0:
            return tensor
        copy = tensor.to(self._dtype, copy=True).mul_(scale)
        self._keep(tensor, copy)
        if scale != 1.0:
            self._scaled.append(copy)
            self._scales.append(scale)
        return copy

    def diagonal(self, blocks: Sequence[tuple[slice, Tensor]], rows: int) -> Tensor:
        """One matrix of `rows` rows that stands for several: each in rows and columns of its own, zeros elsewhere.

        Args:
            blocks: the rows (o,) of each matrix, and the matrix (o, r).
        """
        columns = [matrix.shape[1] for _, matrix in blocks]
        whole = blocks[0][1].new_zeros(rows, sum(columns), dtype=self._dtype)
        for (place, matrix), part in zip(blocks, torch.split(whole, columns, dim=1), strict=True):
            part[place].copy_(matrix.detach())
            self._keep(matrix.detach(), part[place])
        return whole

    def _keep(self, original: Tensor, copy: Tensor) -> None:
        self._originals.append(original)
        self.copies.append(copy)

    def refresh(self) -> None:
        """Copy what the optimizer changed."""
        if self.copies:
            torch._foreach_copy_(self.copies, self._originals)
        if self._scaled:
            torch._foreach_mul_(self._scaled, self._scales)


def _product32(a: Tensor, b: Tensor) -> Tensor:
    """a·b in fp32: weight gradients."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def _one(parameters: Sequence[Tensor]) -> Tensor:
    """The parameters' values side by side in one tensor; from now on they are views of it."""
    whole = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, torch.split(whole, [len(p) for p in parameters]), strict=True):
        parameter.data = part
    return whole


@dataclass
class _Adapter:
    """A low-rank update of the columns `out` of a group's result."""

    out: slice
    a: nn.Parameter
    b: nn.Parameter


class Group:
    """Linear layers that share their input, as one: x (T, I) -> (T, O), O the sum of theirs.

    Attributes:
        parameters: those that are trained, in the order in which `backward` gives their gradients.
    """

    def __init__(self, layers: Sequence[nn.Module], shadows: Shadows, draws: Draws) -> None:
        bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
        self._stacked = [base.weight for base in bases], [base.bias for base in bases]
        weights, biases = self._stacked
        self.weight = shadows.of(_one(weights) if len(weights) > 1 else weights[0])
        self.bias = None  # as in ModernBERT
        if biases[0] is not None:
            self.bias = shadows.of(_one(biases) if len(biases) > 1 else biases[0])
        self._sizes = [len(base.weight) for base in bases]
        self.free = bool(bases[0].weight.requires_grad)
        self.adapters: list[_Adapter] = []
        self.scale, self.dropout = 1.0, 0.0
        start = 0
        for layer, size in zip(layers, self._sizes, strict=True):
            if isinstance(layer, LoraLayer):
                known: Any = layer
                (name,) = known.active_adapters
                a, b = known.lora_A[name].weight, known.lora_B[name].weight
                self.adapters.append(_Adapter(slice(start, start + size), a, b))
                self.scale, self.dropout = float(known.scaling[name]), float(getattr(known.lora_dropout[name], "p", 0))
            start += size
        self._stacked_a = [adapter.a for adapter in self.adapters]
        if self.adapters:
            self.a = shadows.of(_one(self._stacked_a), scale=self.scale)  # s·A, (r of all, I)
            self.b = shadows.diagonal([(adapter.out, adapter.b) for adapter in self.adapters], start)  # (O, r of all)
        self.rank = len(self.adapters[0].a) if self.adapters else 0
        self._draws, self._sites = draws, [draws.site() for _ in self.adapters]
        trained = [*weights, *(biases if self.bias is not None else [])] if self.free else []
        self.parameters: list[Any] = trained
        self.parameters += [p for adapter in self.adapters for p in (adapter.a, adapter.b)]

    @property
    def keeps_input(self) -> bool:
        """Whether backward needs the input."""
        return self.free or bool(self.adapters)

    def restore(self) -> None:
        """Give each parameter memory of its own again."""
        for parts in (*self._stacked, self._stacked_a):
            if len(parts) > 1 and parts[0] is not None:
                for parameter in parts:
                    parameter.data = parameter.data.clone()

    def forward(self, x: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """The result (T, O), and what backward needs beside x."""
        y = F.linear(x, self.weight, self.bias)
        if not self.adapters:
            return y, []
        drops = training and self.dropout > 0
        masks = [Dropout(self.dropout).mask(x) for _ in self.adapters] if drops and not x.is_cuda else []
        if drops:
            parts = [
                self._drop(x, number, masks) @ self.a[self._part(number)].t() for number in range(len(self.adapters))
            ]
            hidden = torch.cat(parts, dim=1)
        else:
            hidden = x @ self.a.t()  # s·x·Aᵀ of all, (T, r of all)
        y.addmm_(hidden, self.b.t())
        return y, [hidden, *masks]

    def backward(
        self,
        grad: Tensor,
        x: Tensor | None,
        kept: Sequence[Tensor],
        *,
        training: bool,
        into: Tensor | None = None,
        wanted: bool = True,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The input's gradient (T, I), and those of `parameters`.

        Args:
            into: a gradient to which the input's is added, in place.
            wanted: whether the input's gradient is.
        """
        result = None
        if wanted:
            result = grad @ self.weight if into is None else into.addmm_(grad, self.weight)
        gradients: list[Tensor] = []
        if self.free:
            assert x is not None
            gradients += torch.split(_product32(grad.t(), x), self._sizes)
            if self.bias is not None:
                gradients += torch.split(grad.sum(0, dtype=torch.float32), self._sizes)
        if not self.adapters:
            return result, gradients
        assert x is not None
        hidden, masks = kept[0], kept[1:]
        inner = grad @ self.b  # dy·B
        grads_a: list[Tensor] = []
        drops = training and self.dropout > 0
        for number, part in enumerate(self._parts(drops)):
            dropped = self._drop(x, number, masks) if drops else x
            grads_a += torch.split(_product32(inner[:, part].t(), dropped).mul_(self.scale), self.rank)
            if result is not None and drops:
                self._drop(inner[:, part] @ self.a[part], number, masks, into=result)
            elif result is not None:
                result.addmm_(inner, self.a)
        for number, adapter in enumerate(self.adapters):
            gradients += [grads_a[number], _product32(grad[:, adapter.out].t(), hidden[:, self._part(number)])]
        return result, gradients

    def _part(self, number: int) -> slice:
        return slice(number * self.rank, (number + 1) * self.rank)

    def _drop(self, x: Tensor, number: int, masks: Sequence[Tensor], *, into: Tensor | None = None) -> Tensor:
        """x∘M of the adapter `number`, added to `into` where that is given. On CUDA M is drawn again, not kept."""
        if x.is_cuda:
            return kernels().drop(x, self.dropout, self._draws.seed, self._sites[number], into=into)  # type: ignore[no-any-return]
        return x * masks[number] if into is None else into.addcmul_(x, masks[number])

    def _parts(self, drops: bool) -> list[slice]:
        """All A's in one product, or, where each drops its input by a mask of its own, one after the other."""
        if drops:
            return [self._part(number) for number in range(len(self.adapters))]
        return [slice(0, self.rank * len(self.adapters))]


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
        grad, parameters = ctx.group.backward(
            gradients[0].contiguous(), x, kept, training=ctx.training, wanted=ctx.wanted
        )
        return grad, None, None, *parameters


class AddNorm:
    """LN(residual + drop(branch)); Triton kernels on CUDA, torch's own on the CPU."""

    def __init__(self, norm: nn.LayerNorm, dropout: nn.Module, draws: Draws) -> None:
        self.norm, self.drop, self._draws, self._site = norm, dropout, draws, draws.site()
        self.free = norm.weight.requires_grad
        self.parameters: list[Tensor] = [norm.weight, norm.bias] if self.free else []

    def forward(self, branch: Tensor, residual: Tensor, *, training: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result (T, H), and what backward needs; its fourth tensor, where there is one, is the mask."""
        p = float(getattr(self.drop, "p", 0.0)) if training else 0.0
        norm = self.norm
        if branch.is_cuda:
            seed = self._draws.seed
            y, kept = kernels().add_norm(branch, residual, norm.weight, norm.bias, norm.eps, p, seed, self._site)
            return y, kept
        mask = [Dropout(p).mask(branch)] if p > 0 else []
        x = torch.addcmul(residual, branch, mask[0]) if mask else residual + branch
        y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        return y, (x, mean, rstd, *mask)

    def backward(self, grad: Tensor, kept: Sequence[Tensor], *, training: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The gradients of branch, residual (T, H) and `parameters`. The first two may be one tensor."""
        x, mean, rstd, *mask = kept
        if x.is_cuda:
            p = float(getattr(self.drop, "p", 0.0)) if training else 0.0
            branch, residual, weight, bias = kernels().add_norm_backward(
                grad, (x, mean, rstd), self.norm.weight, p, self._draws.seed, self._site, weights=self.free
            )
        else:
            residual, weight, bias = torch.ops.aten.native_layer_norm_backward(
                grad, x, x.shape[-1:], mean, rstd, self.norm.weight, self.norm.bias, [True, self.free, self.free]
            )
            branch = residual * mask[0] if mask else residual
        return branch, residual, [weight, bias] if self.free else []


def kernels() -> ModuleType:
    """The CUDA kernels; Triton is there where CUDA is."""
    from loratory.engine import kernels

    return kernels


class _Rest(torch.autograd.Function):
    """All of a layer behind attention: (attended, x) -> z."""

    @staticmethod
    def forward(ctx: Any, attended: Tensor, x: Tensor, layer: Layer, training: bool, *parameters: Tensor) -> Tensor:
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
        saved, layer = iter(ctx.saved_tensors), ctx.layer
        parts = [[next(saved) for _ in range(size)] for size in ctx.sizes]
        (attended, y, inner, active), kept_out, kept_first, kept_up, kept_down, kept_second = parts
        grad, grad_y, of_second = layer.second.backward(gradients[0].contiguous(), kept_second, training=ctx.training)
        if active is None and layer.down.keeps_input:
            active = F.gelu(inner)
        grad, of_down = layer.down.backward(grad, active, kept_down, training=ctx.training)
        grad = torch.ops.aten.gelu_backward(grad, inner)
        grad_y, of_up = layer.up.backward(grad, y, kept_up, training=ctx.training, into=grad_y)
        grad, grad_x, of_first = layer.first.backward(grad_y, kept_first, training=ctx.training)
        grad, of_out = layer.out.backward(grad, attended, kept_out, training=ctx.training, wanted=ctx.wanted[0])
        return grad, grad_x if ctx.wanted[1] else None, None, None, *of_out, *of_first, *of_up, *of_down, *of_second


class Layer:
    """One of BERT's layers, computed as the module's docstring says."""

    def __init__(self, layer: Any, shadows: Shadows, draws: Draws, dtype: torch.dtype) -> None:
        attention = layer.attention.self
        self.module, self.dtype = layer, dtype
        self.attention = attention
        self.heads = int(attention.num_attention_heads)
        self.project = Group([attention.query, attention.key, attention.value], shadows, draws)
        self.out = Group([layer.attention.output.dense], shadows, draws)
        self.first = AddNorm(layer.attention.output.LayerNorm, layer.attention.output.dropout, draws)
        self.up = Group([layer.intermediate.dense], shadows, draws)
        self.down = Group([layer.output.dense], shadows, draws)
        self.second = AddNorm(layer.output.LayerNorm, layer.output.dropout, draws)

    def __call__(
        self, hidden_states: Tensor, attention_mask: None = None, *_: Any, layout: Layout, **__: Any
    ) -> Tensor:
        """(1, T, H) -> (1, T, H), as transformers' encoders call their layers."""
        x, training = hidden_states[0].to(self.dtype), self.module.training
        mixed = _Project.apply(x, self.project, training, *self.project.parameters)  # type: ignore[no-untyped-call]
        tokens, width = x.shape
        drop = float(self.attention.dropout.p) if training else 0.0
        attended = attend_packed(mixed.view(tokens, 3, self.heads, -1), layout, dropout=drop)
        parts = (self.out, self.first, self.up, self.down, self.second)
        result = _Rest.apply(  # type: ignore[no-untyped-call]
            attended.reshape(tokens, width), x, self, training, *(p for part in parts for p in part.parameters)
        )
        return result.unsqueeze(0)  # type: ignore[no-any-return]

    @property
    def random(self) -> bool:
        """Whether it draws from torch's generators: the CUDA kernels draw by a seed of their own."""
        dropped = [self.attention.dropout.p]
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
        y = _Project.apply(rows, self.group, self.module.training, *self.group.parameters)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

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
    taken: set[nn.Module] = set()
    for module in list(_alike(model)):
        quick.parts.append(Layer(module, quick.shadows, quick.draws, dtype))
        taken.update(module.modules())
    for module in list(model.modules()):
        if isinstance(module, LoraLayer) and module not in taken and _plain(module):
            quick.parts.append(Single(module, quick.shadows, quick.draws, dtype))
    with ExitStack() as stack:
        for part in quick.parts:
            stack.callback(part.restore)
            stack.callback(stand_in(part.module, part.__call__))
        yield quick


def _alike(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that are layers of BERT's shape, with GELU and no update but LoRA's plain one."""
    config: Any = model.config
    if getattr(config, "hidden_act", None) != "gelu" or getattr(config, "is_decoder", False):
        return
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")  # fmt: skip
    for module in model.modules():
        if not all(_submodule(module, path) for path in parts):
            continue
        if all(_plain(module.get_submodule(path)) for path in parts):
            yield module


def _submodule(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _plain(module: nn.Module) -> bool:
    """A Linear or LayerNorm, or PEFT's plain LoRA on a Linear."""
    if isinstance(module, LoraLayer):
        known: Any = module
        one = len(known.active_adapters) == 1 and not known.merged and not known.lora_variant
        return one and type(known.base_layer) is nn.Linear and not any(known.use_dora.values())
    return type(module) in (nn.Linear, nn.LayerNorm)
