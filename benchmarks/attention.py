"""Attention over sequences of more than 128 tokens on CUDA: Loratory's kernels, by their tiles, beside torch's varlen.

    python benchmarks/attention.py                 a Markdown table: the kernels as they are cut, beside varlen
    python benchmarks/attention.py --search        each kernel's time for many ways to cut it, and the best

Lengths are those of the long workload (about 260 tokens on average, cut at 512), and batches of one length. Forward and
backward of 12 heads of width 64, query, key and value side by side as a joint projection leaves them, gradients so too.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.errors import TritonError

from loratory.models import tiled
from loratory.models.short import Settings
from loratory.models.tiled import Tiles

HEADS, WIDTH, BATCH = 12, 64, 32

CANDIDATES = {
    "FORWARD": [(128, 64, 4, 3), (128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 8, 2), (64, 128, 4, 2), (128, 32, 4, 4)],
    "QUERIES": [(64, 64, 4, 3), (128, 64, 8, 3), (64, 32, 4, 3), (128, 32, 4, 3), (64, 128, 4, 2), (128, 64, 8, 2)],
    "KEYS": [(64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (64, 32, 4, 3), (128, 32, 8, 3), (64, 128, 8, 2)],
}
"""Rows of the own tile, rows of the others, warps, stages."""


def lengths(kind: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(32,) tokens of each sequence: `mixed`, or all of the length given."""
    if kind != "mixed":
        return np.full(BATCH, int(kind))
    drawn = np.random.default_rng(0).lognormal(math.log(230), 0.5, BATCH).round()
    return np.sort(np.clip(drawn, 16, 512).astype(np.int64))[::-1]


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor, Settings]:
    """Query, key and value (T, 3, H, D), a gradient (T, H, D), the bounds, and what the kernels are told."""
    count = lengths(kind)
    bounds = torch.tensor([0, *count.cumsum()], dtype=torch.int32, device="cuda")
    total = int(count.sum())
    mixed = torch.randn(total, 3, HEADS, WIDTH, device="cuda").bfloat16()
    grad = torch.randn(total, HEADS, WIDTH, device="cuda").bfloat16()
    longest = 512 if kind == "mixed" else int(kind)
    return mixed, grad, bounds, Settings(longest, -1, WIDTH**-0.5, 0.0)


def passes(kind: str) -> dict[str, Callable[[], Any]]:
    """Forward, backward, and both, by our kernels; forward and both by varlen."""
    from torch.nn.attention.varlen import varlen_attn

    mixed, grad, bounds, settings = inputs(kind)
    q, k, v = mixed.unbind(1)
    _, kept = tiled.forward(q, k, v, bounds, bounds, settings)
    leaf, longest = mixed.clone().requires_grad_(), settings.longest

    def forward() -> Any:
        return tiled.forward(q, k, v, bounds, bounds, settings)

    def backward() -> Any:
        return tiled.backward(grad, q, k, v, kept, bounds, bounds, settings)

    def varlen(packed: Tensor) -> Tensor:
        out = varlen_attn(*packed.unbind(1), bounds, bounds, longest, longest, scale=settings.scale)
        assert isinstance(out, Tensor)
        return out

    return {
        "forward": forward,
        "backward": backward,
        "both": lambda: (forward(), backward()),
        "varlen forward": lambda: varlen(mixed),
        "varlen both": lambda: torch.autograd.grad(varlen(leaf), leaf, grad),
    }


def milliseconds(function: Callable[[], Any]) -> float:
    """The median over replays of a captured graph: launching is no part of a captured step."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(function, rep=60, return_mode="median"))


def table(kinds: list[str]) -> float:
    """Print our kernels beside varlen; how long ours take for the first lengths, over varlen."""
    print("| lengths | forward ms | varlen | both ms | varlen | ÷ varlen | TFLOP/s |\n|---|" + "--:|" * 6)
    ratios = []
    for kind in kinds:
        functions = passes(kind)
        ours, theirs, both, both_theirs = (
            milliseconds(functions[name]) for name in ("forward", "varlen forward", "both", "varlen both")
        )
        operations = 12.0 * float((lengths(kind).astype(np.float64) ** 2).sum()) * HEADS * WIDTH
        ratios.append(both / both_theirs)
        print(
            f"| {kind} | {ours:.3f} | {theirs:.3f} | {both:.3f} | {both_theirs:.3f} | {ratios[-1]:.2f} | "
            f"{operations / both / 1e9:.0f} |",
            flush=True,
        )
    return ratios[0]


def search(kind: str) -> dict[str, list[int]]:
    """Print the time of each kernel's candidates; the best of each."""
    work = [(name, candidate) for name, candidates in CANDIDATES.items() for candidate in candidates]
    context = multiprocessing.get_context("fork")  # the parent has not touched the device yet
    compilers = [context.Process(target=_compile, args=(kind, work[number::8])) for number in range(8)]
    for process in compilers:
        process.start()
    for process in compilers:
        process.join()
    best: dict[str, tuple[float, list[int]]] = {}
    for name, candidate in work:
        try:
            ms = _time(kind, name, Tiles(*candidate))
        except (TritonError, RuntimeError) as error:  # a way to cut it that the device cannot hold
            print(f"| {name} | {candidate} | {type(error).__name__} |", flush=True)
            continue
        print(f"| {name} | {candidate} | {ms:.3f} ms |", flush=True)
        if name not in best or ms < best[name][0]:
            best[name] = ms, list(candidate)
    return {name: candidate for name, (_, candidate) in best.items()}


def _time(kind: str, name: str, tiles: Tiles) -> float:
    """Of forward, or of backward, with one kernel cut so."""
    cut: dict[int, Tiles] = getattr(tiled, name)
    before = cut[64]
    cut[64] = tiles
    try:
        return milliseconds(passes(kind)["forward" if name == "FORWARD" else "backward"])
    finally:
        cut[64] = before


def _compile(kind: str, work: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    for name, candidate in work:
        try:
            _time(kind, name, Tiles(*candidate))
        except (TritonError, RuntimeError) as error:  # the parent meets it again, and says so
            print(f"{name} {candidate}: {type(error).__name__}")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--lengths", default="mixed,256,512,1024,2048")
    options = parser.parse_args()
    if options.search:
        print(json.dumps(search(options.lengths.split(",")[0])))
        return
    for name in CANDIDATES:
        print(f"{name}: {astuple(getattr(tiled, name)[64])}", end="; ")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    table(options.lengths.split(","))


if __name__ == "__main__":
    main()
