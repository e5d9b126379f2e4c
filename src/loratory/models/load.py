"""The one door for weight files: safetensors only, checked before a library sees them.

`load_base` gives a pretrained model with a classifier head for given labels; `load_trained` gives a committed run's
model back, through stock transformers and stock PEFT, so that what we can open is what everyone can open.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from loratory import units
from loratory.errors import ModelError, OutOfMemoryError, ResourceError, first_line
from loratory.host_memory import FLOAT, available_memory
from loratory.models import flat_attention
from loratory.models.door import adapter as adapters
from loratory.models.door.loading import loading
from loratory.models.door.weights import Entry, check_extra, check_finite, check_fits, in_head, lacking, read_header
from loratory.models.families import Family, family_of
from loratory.models.merging import merged
from loratory.models.prompted import call_through
from loratory.models.quantized import Quantization
from loratory.models.source import (
    Pretrained,
    pretrained,
    quiet,
    read_tokenizer,
    takes_types,
)
from loratory.problems import SINGLE, Problem


@dataclass(frozen=True)
class Base:
    """A pretrained model with a classifier head, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: Any
    family: Family
    source: str
    """What stock libraries open it by: a directory or a hub id."""
    digest: str
    """SHA-256 over the files of weights, configuration and tokenizer; the hub's revision for a hub id."""
    quantization: Quantization | None = None
    """How its linear layers are held, where not in fp32."""

    def to(self, device: torch.device | str) -> None:
        """Bring the model to a device; a quantised one stays where it is."""
        if self.quantization is None:
            self.model.to(device)

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def types(self) -> bool:
        """As :func:`loratory.models.source.takes_types`."""
        return takes_types(self.config, self.tokenizer)

    @property
    def pad_id(self) -> int:
        """The padding token's id."""
        return int(self.tokenizer.pad_token_id or 0)


def load_base(
    name: str,
    *,
    labels: tuple[str, ...],
    problem: Problem = SINGLE,
    seed: int,
    dropout: float | None = None,
    attention_dropout: float = 0.0,
    flat_tokens: bool = True,
    found: Pretrained | None = None,
    fits: bool = False,
    quantization: Quantization | None = None,
) -> Base:
    """Load a pretrained model and give it a classifier head for `labels`, in fp32 on the CPU; a quantised one on its
    device, where what the files do not hold is drawn too.

    Args:
        name: `minilm`, a directory, or a hub id.
        labels: class names in id order.
        problem: what the head's outputs are.
        seed: decides the values of what the files do not hold (the head).
        dropout: hidden dropout; None keeps the model's own.
        attention_dropout: dropout on attention weights.
        flat_tokens: run flat batches where the family can; False forces transformers' own padded attention.
        found: the model's files, where they have been read already.
        fits: whether what was found is known to fit the architecture with such labels.
        quantization: holds the encoder's linear layers in fewer bits.

    Raises:
        ModelError: missing, truncated, incomplete or unsupported.
        OutOfMemoryError: memory does not suffice to load it.
        ResourceError: bitsandbytes is there, but too old.
        SafetyError: its files could run code or exhaust the machine.
    """
    found = found or pretrained(name)
    config = found.config(labels, problem)
    family = family_of(config)
    if found.entries is not None and not fits:
        check_fits(name, found.entries, skeleton(found, labels, problem).model, family)
    _set_dropout(config, dropout, attention_dropout)
    flat_attention.register()
    model, info = _loaded(
        AutoModelForSequenceClassification, found, config, seed=seed, flat_tokens=flat_tokens, quantization=quantization
    )
    _check_complete(name, family, info)
    check_extra(name, info["unexpected_keys"], model)
    check_finite(f"model {name!r}", model.state_dict())
    _check_vocabulary(name, found.tokenizer, model)
    return Base(model, found.tokenizer, family, found.source, found.digest, quantization)


def _loaded(
    kind: Any,
    found: Pretrained,
    config: PretrainedConfig,
    *,
    seed: int,
    flat_tokens: bool = True,
    quantization: Quantization | None = None,
    values: dict[str, Tensor] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The model that `kind` makes of the files, or of `values` by their names; and what it says of the loading.

    Raises:
        ModelError: it cannot be loaded.
        OutOfMemoryError: memory does not suffice to load it.
        ResourceError: bitsandbytes is there, but too old.
    """
    quantized = quantization.arguments(family_of(config)) if quantization is not None else {}
    drawn_on = [quantization.device] if quantization is not None and quantization.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=drawn_on), loading(f"model {found.name!r}"):
        torch.manual_seed(seed)  # transformers initialises missing weights from the global generator
        try:
            model, info = kind.from_pretrained(
                found.place if values is None else None,
                state_dict=values,
                config=config,
                attn_implementation=_attention(config, flat_tokens),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **quantized,
            )
        except ImportError as error:
            raise ResourceError(f"--quantize: {first_line(error)}") from error
    return model, info


def _check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"model {name!r}: its tokenizer has {len(tokenizer):,} tokens, its embeddings {rows:,} rows; give it the "
            "tokenizer that it was trained with"
        )


def skeleton(found: Pretrained, labels: tuple[str, ...], problem: Problem = SINGLE) -> Base:
    """The model without values, on the meta device: its layers, names and shapes.

    Raises:
        ModelError: its settings do not go together.
    """
    config = found.config(labels, problem)
    flat_attention.register()
    with quiet(), torch.device("meta"):
        model = _built(found.name, config)
    return Base(model, found.tokenizer, family_of(config), found.source, found.digest)


def _built(name: str, config: PretrainedConfig) -> Any:
    """The architecture that `config` describes.

    Raises:
        ModelError: its settings do not go together.
    """
    try:
        return AutoModelForSequenceClassification.from_config(config, attn_implementation=_attention(config, True))
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"model {name!r}: {first_line(error)}") from error


def drawn(
    found: Pretrained,
    labels: tuple[str, ...],
    problem: Problem = SINGLE,
    *,
    seed: int,
    dropout: float | None = None,
    attention_dropout: float = 0.0,
    quantization: Quantization | None = None,
) -> Base:
    """As :func:`load_base`, with random values in place of the weights, which need not be there.

    Raises:
        ModelError: its settings do not go together.
        OutOfMemoryError: the model would not fit into the memory that is free; nothing was allocated.
    """
    _check_room(found.name, skeleton(found, labels, problem).model)
    config = found.config(labels, problem)
    _set_dropout(config, dropout, attention_dropout)
    flat_attention.register()
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _built(found.name, config).float()
    if quantization is not None:
        model, _ = _loaded(type(model), found, config, seed=seed, quantization=quantization, values=model.state_dict())
    return Base(model, found.tokenizer, family_of(config), found.source, found.digest, quantization)


def _check_room(name: str, planned: nn.Module) -> None:
    """Refuse a model of the shapes of `planned` that the machine's memory does not hold in fp32."""
    numbers = sum(one.numel() for one in (*planned.parameters(), *planned.buffers()))
    needed, free = numbers * FLOAT, available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"model {name!r}: its {numbers:,} weights take {units.memory(needed)} in fp32, and "
            f"{units.memory(free)} are free; give a smaller one, or free memory"
        )


def load_state(
    state: dict[str, Tensor], *, name: str, labels: tuple[str, ...], problem: Problem = SINGLE, where: str
) -> Base:
    """The architecture and tokenizer of `name` with the weights of `state`, in fp32 on the CPU.

    Raises:
        ModelError: names or shapes are not those of the architecture; `where` names the file.
    """
    found = pretrained(name, weights=False)
    family, planned = family_of(found.plain), skeleton(found, labels, problem).model
    entries = {key: Entry(tuple(tensor.shape), "F32") for key, tensor in state.items()}
    try:
        check_fits(name, entries, planned, family)
    except ModelError as error:
        raise ModelError(f"{where}: not the weights of {name!r} with {len(labels)} classes; {error}") from error
    check_finite(where, state)
    flat_attention.register()
    config = found.config(labels, problem)
    with quiet():
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=_attention(config, True))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{where}: not the weights of {name!r} with {len(labels)} classes; {detail[:200]}") from error
    return Base(model.eval(), found.tokenizer, family, found.source, "")


def load_trained(
    directory: Path,
    *,
    adapter: bool,
    model: str,
    labels: tuple[str, ...],
    problem: Problem = SINGLE,
    flat_tokens: bool = True,
    merge: bool = False,
    bases: Bases | None = None,
    quantization: Quantization | None = None,
    digest: str | None = None,
) -> Base:
    """The model of a committed run, in fp32 on the CPU; an adapter's base as `quantization` says, on its device.

    Args:
        directory: holds either a whole model or an adapter in PEFT's format.
        adapter: which of the two, as the run's record says; what lies there decides nothing.
        model: the base's name; used where the directory holds an adapter.
        labels: class names in id order.
        problem: what the head's outputs are.
        merge: fold an adapter into the base's weights.
        bases: what gives an adapter's base, where several share it; a quantised one is never shared.
        quantization: how an adapter's base was held while the adapter was trained.
        digest: that of the base on which an adapter was trained, where it is to be compared.

    Raises:
        ModelError: the directory's weights are damaged, or are not the base's; or an adapter is to be folded into a
            quantised base.
        OutOfMemoryError: memory does not suffice to load it.
    """
    if merge and quantization is not None:
        raise ModelError(f"{directory}: its base is held in {quantization.kind}, and no adapter is folded into that")
    if not adapter:
        return load_base(str(directory), labels=labels, problem=problem, seed=0, flat_tokens=flat_tokens)
    if bases and quantization is None:
        base = bases.take(model, labels, problem)
    else:
        base = load_base(
            model, labels=labels, problem=problem, seed=0, flat_tokens=flat_tokens, quantization=quantization
        )
    if digest is not None and base.digest != digest:
        raise ModelError(
            f"{directory}: its base {base.source} has other weights, configuration or tokenizer than it was trained on"
        )
    return _with_adapter(base, directory, merge=merge)


def _with_adapter(base: Base, directory: Path, *, merge: bool) -> Base:
    """`base` with the adapter in `directory`, and the tokenizer there.

    Raises:
        ModelError: the adapter is damaged, does not fit, or cannot be folded.
    """
    from peft import PeftModel

    weights = directory / "adapter_model.safetensors"
    config = adapters.check_adapter(directory / adapters.CONFIG, read_header(weights))
    tokenizer = read_tokenizer(directory, vocabulary=base.config.vocab_size)
    with loading(f"adapter {directory}"), quiet():
        check_finite(f"adapter {directory}", load_file(weights))
        adapted = PeftModel.from_pretrained(  # by itself PEFT reads onto the first GPU, of a run on the CPU, too
            base.model, str(directory), config=config, torch_device="cpu"
        )
    inner = adapted.get_base_model()
    if adapted.active_peft_config.is_prompt_learning:
        if merge:
            raise ModelError(f"{directory}: virtual tokens cannot be folded into a base; export it as an adapter")
        call_through(inner, adapted, base.family)
    elif merge:
        merged(inner)
    return replace(base, model=inner.eval(), tokenizer=tokenizer)


class Bases:
    """Bases of adapters. Those that several adapters share are read once, and each of them gets a copy of its own.

    Adapters share one that have the same base, labels and problem, which make its head.
    """

    def __init__(self, wanted: Iterable[tuple[str, tuple[str, ...], Problem]]) -> None:
        """
        Args:
            wanted: base, labels and problem of every adapter that will ask.
        """
        self._left = Counter(wanted)
        self._loaded: dict[tuple[str, tuple[str, ...], Problem], Base] = {}

    def take(self, model: str, labels: tuple[str, ...], problem: Problem = SINGLE) -> Base:
        """The base `model` with a head for `labels`, to be adapted in place.

        Raises:
            LoratoryError: as :func:`load_base`.
        """
        key = (model, labels, problem)
        base = self._loaded.pop(key, None) or load_base(model, labels=labels, problem=problem, seed=0)
        self._left[key] -= 1
        if self._left[key] <= 0:  # nobody asks again: no copy is needed
            return base
        self._loaded[key] = base
        return replace(base, model=copy.deepcopy(base.model))


def _check_complete(name: str, family: Family, info: dict[str, Any]) -> None:
    """Only the head may be new; every other weight must come from the files."""
    missing = [key for key in sorted(info["missing_keys"]) if not in_head(key, family)]
    if missing:
        raise lacking(name, family, missing)
    wrong = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    wrong = [key for key in wrong if not in_head(key, family)]
    if wrong:
        raise ModelError(f"model {name!r}: the shape of {wrong[0]!r} is not what its config.json says")


def _attention(config: PretrainedConfig, flat_tokens: bool) -> str:
    """Flat where the family can and its head reads first tokens; transformers' own padded attention elsewhere."""
    family = family_of(config)
    if flat_tokens and family.flat and getattr(config, "classifier_pooling", "cls") == "cls":
        return flat_attention.ATTENTION
    return "sdpa" if family.flat else "eager"


def _set_dropout(config: PretrainedConfig, dropout: float | None, attention_dropout: float) -> None:
    """Set every dropout rate a configuration knows; the field names differ by family."""
    for field in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(config, field):
            setattr(config, field, attention_dropout)
    if dropout is not None:
        for field in ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "pooler_dropout",
                      "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "resid_pdrop",
                      "embd_pdrop"):  # fmt: skip
            if hasattr(config, field):
                setattr(config, field, dropout)
