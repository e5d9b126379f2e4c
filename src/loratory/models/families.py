"""What must be known of each architecture family, in one table.

A family says where its layers stand, which projections are query and value, what belongs to the classifier head, and
whether its attention goes through transformers' attention interface, so that flat batches run through it unchanged.
`loratory models` prints it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from loratory.errors import ModelError

if TYPE_CHECKING:  # `loratory models` reads the table without torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig

HeadFunction: TypeAlias = "Callable[[Any, Tensor], Tensor]"
"""(model, pooled rows (B, H)) -> logits (B, C)"""


@dataclass(frozen=True)
class Family:
    """One architecture family, named as transformers' `model_type`."""

    name: str
    layers: str
    """Path of the list of layers below the encoder."""
    attention: tuple[str, ...]
    """Last names of the query and value projections (of the fused projection where there is only one)."""
    head: tuple[str, ...]
    """Modules between the encoder's last hidden state and the logits, pooler included: trained in every method."""
    apply_head: HeadFunction | None = None
    """Logits from the rows of the pooled tokens; None where the family runs padded only."""
    positions_after_padding: bool = False
    """Positions count from `pad_token_id + 1` (RoBERTa and its descendants)."""
    shared: bool = False
    """The list's one entry serves as every layer."""
    autocast: bool = True
    """Whether transformers' code of the family runs under autocast; where not, it is computed in fp32."""
    fixed_padding_index: int | None = None
    """The padding index that the family's code has in place of `pad_token_id`; its positions count from the next."""
    causal: bool = False
    """A decoder: a token sees those before it and itself, and the last one is pooled, not the first."""
    keys_and_values: tuple[str, ...] = ("attention.self.key", "attention.self.value")
    """Paths below a layer of the key and value projections (of the fused projection where there is only one)."""
    down: str = "output.dense"
    """Path below a layer of the feed-forward's second linear layer."""
    local: bool = False
    """Some layers attend within a window alone."""
    grouped: bool = False
    """Several query heads share one key and value head."""
    biases: bool = True
    """Whether the encoder has any, as it is usually configured."""
    takes_keys: bool = False
    """Its encoder takes keys and values from outside (`past_key_values`), as prefix tuning needs."""
    own_layers: bool = False
    """Its layers are of BERT's shape, which the engine computes itself."""

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """Which tokens a token sees, and how heads share them: bidirectional or causal; local; grouped heads."""
        kinds = {"bidirectional": not self.causal, "causal": self.causal, "local": self.local}
        return tuple(kind for kind, has in (kinds | {"grouped heads": self.grouped}).items() if has)

    @property
    def flat(self) -> bool:
        """Whether flat batches run through the family's encoder."""
        return self.apply_head is not None

    def first_position(self, config: PretrainedConfig) -> int:
        """The position id of a sequence's first token."""
        if self.fixed_padding_index is not None:
            return self.fixed_padding_index + 1
        return int(config.pad_token_id) + 1 if self.positions_after_padding else 0

    def encoder(self, model: nn.Module) -> nn.Module:
        """The part of `model` below the classifier head."""
        encoder: nn.Module = getattr(model, str(model.base_model_prefix))
        return encoder

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The encoder's layers, bottom first."""
        return list(self.encoder(model).get_submodule(self.layers).children())

    def longest(self, config: PretrainedConfig) -> int:
        """The most tokens a sequence may have."""
        return int(config.max_position_embeddings) - self.first_position(config)


def _classifier_on_rows(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(rows.unsqueeze(1))  # these heads take [:, 0] of (B, L, H) themselves
    return logits


def _bert_head(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.dropout(model.bert.pooler(rows.unsqueeze(1))))
    return logits


def _albert_head(model: Any, rows: Tensor) -> Tensor:
    pooled = model.albert.pooler_activation(model.albert.pooler(rows))
    logits: Tensor = model.classifier(model.dropout(pooled))
    return logits


def _distilbert_head(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.dropout(model.pre_classifier(rows).relu()))
    return logits


def _modernbert_head(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.drop(model.head(rows)))
    return logits


def _score(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model.score(rows)
    return logits


def _llama_like(name: str, *, biases: bool) -> Family:
    return Family(
        name,
        "layers",
        ("q_proj", "v_proj"),
        ("score",),
        _score,
        causal=True,
        keys_and_values=("self_attn.k_proj", "self_attn.v_proj"),
        down="mlp.down_proj",
        grouped=True,
        biases=biases,
        takes_keys=True,
    )


def _roberta_like(name: str) -> Family:
    return replace(_bert_like(name, ("classifier",), _classifier_on_rows), positions_after_padding=True)


def _bert_like(name: str, head: tuple[str, ...], apply_head: HeadFunction) -> Family:
    return Family(name, "encoder.layer", ("query", "value"), head, apply_head, takes_keys=True, own_layers=True)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _bert_like("bert", ("bert.pooler", "classifier"), _bert_head),
        _roberta_like("roberta"),
        _roberta_like("xlm-roberta"),
        _roberta_like("camembert"),
        _bert_like("electra", ("classifier",), _classifier_on_rows),
        Family(
            "distilbert",
            "transformer.layer",
            ("q_lin", "v_lin"),
            ("pre_classifier", "classifier"),
            _distilbert_head,
            keys_and_values=("attention.k_lin", "attention.v_lin"),
            down="ffn.lin2",
            own_layers=True,
        ),
        Family(
            "albert",
            "encoder.albert_layer_groups",
            ("query", "value"),
            ("albert.pooler", "classifier"),
            _albert_head,
            shared=True,
            keys_and_values=("albert_layers.0.attention.key", "albert_layers.0.attention.value"),
            down="albert_layers.0.ffn_output",
        ),
        Family(
            "modernbert",
            "layers",
            ("Wqkv",),
            ("head", "classifier"),
            _modernbert_head,
            keys_and_values=("attn.Wqkv",),
            down="mlp.Wo",
            local=True,
            biases=False,
        ),
        Family(
            "mpnet",
            "encoder.layer",
            ("q", "v"),
            ("classifier",),
            fixed_padding_index=1,
            keys_and_values=("attention.attn.k", "attention.attn.v"),
        ),
        # fills bf16 scores with the lowest fp32 number, which overflows
        Family(
            "deberta",
            "encoder.layer",
            ("in_proj",),
            ("pooler", "classifier"),
            autocast=False,
            keys_and_values=("attention.self.in_proj",),
        ),
        Family(
            "deberta-v2",
            "encoder.layer",
            ("query_proj", "value_proj"),
            ("pooler", "classifier"),
            keys_and_values=("attention.self.key_proj", "attention.self.value_proj"),
        ),
        Family(
            "gpt2",
            "h",
            ("c_attn",),
            ("score",),
            _score,
            causal=True,
            keys_and_values=("attn.c_attn",),
            down="mlp.c_proj",
            takes_keys=True,
        ),
        _llama_like("llama", biases=False),
        _llama_like("qwen2", biases=True),
        _llama_like("qwen3", biases=False),
    )
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    Raises:
        ModelError: the architecture is not in the table; the line says what it lacks.
    """
    name = str(config.model_type)
    if name not in FAMILIES:
        raise ModelError(
            f"architecture {name!r} is not supported: {_lacks(config)}; `loratory models` lists those that are"
        )
    return FAMILIES[name]


def _lacks(config: PretrainedConfig) -> str:
    """Why a configuration's architecture is in no table of text classifiers, or else in none of ours."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder and a decoder, where one of the two is needed"
    if config.model_type not in CLASSIFIERS:
        takes = "" if hasattr(config, "vocab_size") else "it takes no text, and "
        return f"{takes}transformers has no class of it that classifies sequences"
    return "where its layers and its head stand is not in the table of families"
