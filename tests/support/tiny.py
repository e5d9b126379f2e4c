"""Tiny models of every family: their settings, and their tokenizers of whole words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [f"w{n}" for n in range(96)]


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


BERT = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # wide, so that logits differ visibly from one text to the next
}


ROBERTA = {**BERT, "max_position_embeddings": 66, "type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3}


DEBERTA = {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}


DECODER = {**BERT, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}


CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": {**BERT, "embedding_size": 16},
    "distilbert": {
        "vocab_size": BERT["vocab_size"],
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    },
    "albert": {**BERT, "embedding_size": 16, "num_hidden_layers": 3},
    "modernbert": {
        **BERT,
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "local_attention": 8,  # shorter than most sequences of the tests
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    },
    "gpt2": {
        "vocab_size": BERT["vocab_size"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "initializer_range": 0.2,
    },
    "llama": DECODER,
    "qwen2": DECODER,
    "qwen3": {**DECODER, "head_dim": 16},
    "mpnet": {**BERT, "pad_token_id": 0},
    "deberta": DEBERTA,
    "deberta-v2": {**DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
}


def word_tokenizer() -> Any:
    """A token for each of :data:`WORDS`, `[CLS]` before and `[SEP]` behind; of a pair one behind each."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def qwen_tokenizer() -> Any:
    """transformers opens Qwen2's directories with this class alone: byte pairs, no token around a text."""
    from transformers import Qwen2Tokenizer

    pairs = [("w", digit) for digit in "0123456789"]
    pairs += [(f"w{tens}", ones) for tens in "123456789" for ones in "0123456789" if int(tens + ones) < 80]
    tokens = [*SPECIAL, "Ġ", "w", *"0123456789", *("".join(pair) for pair in pairs)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=pairs, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", bos_token="[CLS]"
    )


def save_model(family: str, place: Path, **changes: Any) -> Path:
    """Write a tiny random pretrained encoder and its tokenizer to `place`, and give that.

    Args:
        changes: to the family's configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    from loratory.models.source import quiet

    config = AutoConfig.for_model(family, **{**CONFIGS[family], **changes})
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModel.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # biases of 0 and norms of 1 would hide a mistake
                parameter.data += 0.1 * torch.randn_like(parameter)
            assert "lora" not in name
        model.save_pretrained(place)
    (qwen_tokenizer() if family == "qwen2" else word_tokenizer()).save_pretrained(place)
    return place
