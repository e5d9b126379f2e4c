"""Directories of models whose tokenizer steers a library, is out of proportion, or makes one panic."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

from corpus import DAMAGED, Case, Make, changed
from model_files import DOCUMENTS, LOOK, PREDICT, TRAIN, replaced, setting, spoilt

TOKENIZER: dict[str, Any] = {
    "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]},
    "trust_remote_code": True,
    "tokenizer_class": "tokenization_x.Tokenizer",
    "custom_tokenizer": "x",
    "code_revision": "main",
    "gguf_file": "x.gguf",
    "subfolder": "../x",
    "init_inputs": ["/etc/passwd"],
    "sp_model_file": "/etc/passwd",
    "extra_files": ["/etc/passwd"],
    "cache_dir": "/tmp/x",
    "proxies": {"http": "127.0.0.1"},
    "note": "http://127.0.0.1/x",
    "unk_token": {"content": "[UNK]", "__class__": "os.system"},
    "extra_special_tokens": {"x": {"content": 1}},
    "vocab_file": ["x"],
    "backend_module": "os",
}

NAMES = ("../x", "os.system", "__main__", "PreTrainedModel", 7, ["BertTokenizer"])


def step(part: str, *steps: dict[str, Any], **more: Any) -> Make:
    """A tokenizer.json with other steps."""
    kinds = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
    value = more or {"type": "Sequence", kinds[part]: list(steps)}
    return setting("tokenizer.json", **{part: value})


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BETWEEN = {"type": "Replace", "pattern": {"Regex": "(?=a)"}, "content": "a"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LONG_MAP = base64.b64encode(bytes(4) + b"x" * 1000 + b"\0").decode()
ROUND = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}] * 100

ENDLESS = {"type": "Split", "pattern": {"Regex": "(x|xx|xxx)+[yw](?<=w)"}, "behavior": "Isolated", "invert": False}
"""Its search in three hundred x gives up, by a panic."""


def panicking(*, adapter: bool = False) -> Make:
    """A tokenizer that panics; beside a model, a table of texts on which it does."""

    def spoil(folder: Path) -> None:
        changed(folder / "tokenizer.json", {"pre_tokenizer": ENDLESS})
        changed(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        if not adapter:
            rows = "".join(f"{'x' * (280 + row)},{row % 2}\n" for row in range(40))
            (folder.parent / "x.csv").write_text(f"text,label\n{rows}", encoding="utf8")

    return spoilt(spoil, adapter=adapter)


TOKENIZERS = [
    Case("tokenizer.json panics while a model is trained", panicking(), TRAIN.replace("{table}", "{place}/x.csv"),
         (4,)),
    Case("tokenizer.json panics while a text is predicted", panicking(adapter=True),
         PREDICT.replace("w1", "x" * 300), (4,)),
    Case("tokenizer.json doubles each a, thirty times", step("normalizer", *[DOUBLED] * 30), LOOK),
    Case("tokenizer.json doubles what follows nothing, thirty times", step("normalizer", *[BETWEEN] * 30), LOOK),
    Case("tokenizer.json takes bytes for characters, thirty times", step("pre_tokenizer", *[BYTES] * 30), LOOK),
    Case("tokenizer.json makes a thousand letters of one",
         step("normalizer", type="Precompiled", precompiled_charsmap=LONG_MAP), LOOK),
    Case("tokenizer.json puts a hundred texts into one",
         step("post_processor", type="TemplateProcessing", single=ROUND, pair=ROUND,
              special_tokens={"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}}), LOOK),
    Case("tokenizer.json has a step without a kind", step("normalizer", {"content": "a"}), LOOK, DAMAGED),
    Case("tokenizer.json has a step that is a list", step("normalizer", *[["a"]]), LOOK, DAMAGED),
    *(Case(f"tokenizer_config.json says {key}", setting("tokenizer_config.json", **{key: value}), LOOK)
      for key, value in TOKENIZER.items()),
    *(Case(f"tokenizer_config.json is of class {name}", setting("tokenizer_config.json", tokenizer_class=name), LOOK)
      for name in NAMES),
    *(Case(f"tokenizer_config.json {what}", replaced("tokenizer_config.json", content), LOOK, DAMAGED)
      for what, content, _ in DOCUMENTS if "model_type" not in str(content) or "5 MiB" not in what),
    Case("tokenizer_config.json has tokens by words",
         setting("tokenizer_config.json", added_tokens_decoder={"x": {"content": "x"}}), LOOK, DAMAGED),
    Case("tokenizer_config.json has a token at 10⁸",
         setting("tokenizer_config.json", added_tokens_decoder={"100000000": {"content": "x"}}), LOOK, DAMAGED),
    Case("tokenizer_config.json has 17 MiB",
         replaced("tokenizer_config.json", '{"chat_template": "' + "x" * (17 << 20) + '"}'), LOOK),
    Case("tokenizer.json of 20 MiB for 100 tokens",
         replaced("tokenizer.json", '{"x": "' + "x" * (20 << 20) + '"}'), LOOK),
    Case("tokenizer.json that is empty", replaced("tokenizer.json", ""), LOOK, DAMAGED),
    Case("tokenizer.json that is a list", replaced("tokenizer.json", "[]"), LOOK, DAMAGED),
    Case("tokenizer.json that is a pickle", replaced("tokenizer.json", pickle.dumps({})), LOOK, DAMAGED),
    Case("tokenizer.json nested 100,000 deep", replaced("tokenizer.json", "[" * 100_000 + "]" * 100_000), LOOK,
         DAMAGED),
    Case("tokenizer.json without a model", replaced("tokenizer.json", '{"version": "1.0"}'), LOOK, DAMAGED),
    Case("special_tokens_map.json with an object that is no token",
         replaced("special_tokens_map.json", '{"unk_token": {"x": 1}}'), LOOK),
    Case("added_tokens.json that is a list", replaced("added_tokens.json", "[]"), LOOK, DAMAGED),
    Case("a folder of chat templates",
         spoilt(lambda folder: (folder / "additional_chat_templates").mkdir()), LOOK),
    Case("chat_template.jinja of 20 MiB", replaced("chat_template.jinja", "x" * (20 << 20)), LOOK),
]  # fmt: skip
