"""What is published passes the same doors: families' own settings, with the keys that files hold besides."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import CONFIGS
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from loratory.errors import SafetyError
from loratory.models.door.config import check_config
from loratory.models.door.pipeline import check_pipeline
from loratory.models.door.tokenizer import check_tokenizer

BESIDES: dict[str, Any] = {
    "_name_or_path": "/home/someone/out/checkpoint-500", "architectures": ["SomeForMaskedLM"],
    "transformers_version": "4.41.2", "torch_dtype": "float32", "gradient_checkpointing": False,
    "position_embedding_type": "absolute", "classifier_dropout": None, "finetuning_task": "mnli",
    "id2label": {"0": "NEG/neutral", "1": "POS: 5 *"}, "label2id": {"NEG/neutral": 0, "POS: 5 *": 1},
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "use_cache": True,
    "_num_labels": 5, "pad_token_id": 0, "problem_type": "single_label_classification",
}  # fmt: skip


def token(content: str) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


TOKENIZERS: dict[str, dict[str, Any]] = {
    "bert": {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
    "roberta": {"model_max_length": 512, "add_prefix_space": False, "errors": "replace", "mask_token": token("<mask>"),
                "tokenizer_class": "RobertaTokenizer"},
    "deberta-v3": {"do_lower_case": False, "vocab_type": "spm", "sp_model_kwargs": {}, "split_by_punct": False,
                   "tokenizer_class": "DebertaV2Tokenizer"},
    "gpt2": {"model_max_length": 1024, "unk_token": {**token("<|endoftext|>"), "__type": "AddedToken"},
             "add_bos_token": False, "tokenizer_class": "GPT2Tokenizer"},
    "qwen2": {"added_tokens_decoder": {"151643": {**token("<|endoftext|>"), "special": True}},
              "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
              "chat_template": "{% for message in messages %}{{ '<|im_start|>' }}{% endfor %}",
              "model_max_length": 32768, "tokenizer_class": "Qwen2Tokenizer"},
    "llama": {"add_bos_token": True, "legacy": False, "model_max_length": 1000000000000000019884624838656,
              "sp_model_kwargs": {}, "padding_side": "right", "clean_up_tokenization_spaces": False,
              "tokenizer_class": "LlamaTokenizer"},
}  # fmt: skip


@pytest.mark.parametrize("family", CONFIGS)
def test_a_configuration_as_published_is_let_in(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(family, **CONFIGS[family]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    held = json.loads(path.read_text("utf8")) | BESIDES
    path.write_text(json.dumps(held), encoding="utf8")
    assert check_config(path) == held


@pytest.mark.parametrize("family", TOKENIZERS)
def test_a_tokenizer_as_published_is_let_in(family: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(TOKENIZERS[family]), encoding="utf8")
    check_tokenizer(tmp_path, vocabulary=50_000)
    path.write_text(json.dumps(TOKENIZERS[family] | {"auto_map": {"AutoTokenizer": ["x.X", None]}}), encoding="utf8")
    with pytest.raises(Exception, match="auto_map"):
        check_tokenizer(tmp_path, vocabulary=50_000)


CHARSMAP = base64.b64encode(bytes(4) + b"x" * 33 + b"\0").decode()  # as long as SentencePiece's longest
STEPS: dict[str, dict[str, Any]] = {
    "bert": {"normalizer": normalizers.BertNormalizer(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
             "post_processor": processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))},
    "roberta": {"pre_tokenizer": pre_tokenizers.ByteLevel(), "decoder": decoders.ByteLevel(),
                "post_processor": processors.RobertaProcessing(("</s>", 1), ("<s>", 0))},
    "albert": {"normalizer": normalizers.Sequence([
                   normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(),
                   normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]),
               "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                                         pre_tokenizers.Metaspace()]),
               "post_processor": processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1",
                                                               [("[CLS]", 0), ("[SEP]", 1)])},
    "llama": {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
    "qwen2": {"normalizer": normalizers.NFC(), "pre_tokenizer": pre_tokenizers.Sequence([
                  pre_tokenizers.Split(Regex(r"\p{L}+|\s+(?!\S)|\s+"), "isolated"),
                  pre_tokenizers.ByteLevel(use_regex=False)])},
}  # fmt: skip


@pytest.mark.parametrize("family", STEPS)
def test_the_steps_of_published_tokenizers_are_let_in(family: str, tmp_path: Path) -> None:
    made = Tokenizer(models.BPE())
    for part, value in STEPS[family].items():
        setattr(made, part, value)
    made.save(str(tmp_path / "tokenizer.json"))
    check_pipeline(tmp_path, most=1 << 20)


def test_a_table_as_long_as_sentencepiece_s_is_let_in_once(tmp_path: Path) -> None:
    step = {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"normalizer": step, "pre_tokenizer": {"type": "Metaspace"}}))
    check_pipeline(tmp_path, most=1 << 20)
    path.write_text(json.dumps({"normalizer": {"type": "Sequence", "normalizers": [step, step]}}))
    with pytest.raises(SafetyError, match="1,089 times as long"):
        check_pipeline(tmp_path, most=1 << 20)


@pytest.mark.parametrize(
    "held",
    [
        {"max_input_chars_per_word": 1_000_000},
        {"continuing_subword_prefix": "#" * 100},
    ],
)
def test_what_makes_wordpiece_slow_is_not_let_in(held: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", **held}}))
    with pytest.raises(SafetyError, match=next(iter(held))):
        check_pipeline(tmp_path, most=1 << 20)


def test_where_the_files_once_lay_is_let_in_and_a_file_that_is_here_is_not(tmp_path: Path) -> None:
    directory, secret = tmp_path / "model", tmp_path / "secret.txt"
    directory.mkdir()
    path = directory / "tokenizer_config.json"
    for key in ("vocab_file", "merges_file", "tokenizer_file"):
        path.write_text(json.dumps({key: "/home/someone/out/vocab.txt"}), encoding="utf8")
        secret.unlink(missing_ok=True)
        check_tokenizer(directory, vocabulary=100)
        secret.write_text("one", encoding="utf8")
        path.write_text(json.dumps({key: str(secret)}), encoding="utf8")
        with pytest.raises(SafetyError, match=f"'{key}' names .* a file that is here and none of the model's"):
            check_tokenizer(directory, vocabulary=100)


@pytest.mark.parametrize("name", ["a" * 300, "x/" * 2000, "\0", "/root/.nobody/vocab.txt"])
def test_a_name_that_no_file_can_have_is_of_none_here(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"vocab_file": name}), encoding="utf8")
    check_tokenizer(tmp_path, vocabulary=100)


def test_what_a_trainer_leaves_beside_is_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_bytes(b" " * (5 << 20))
    check_tokenizer(tmp_path, vocabulary=100)
    (tmp_path / "vocab.txt").write_bytes(b" " * (5 << 20))
    with pytest.raises(SafetyError):
        check_tokenizer(tmp_path, vocabulary=100)
