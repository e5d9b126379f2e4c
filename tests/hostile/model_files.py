"""Directories of models and adapters: configurations that steer a library, weights that are no weights, links out."""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus import DAMAGED, RUNS, Bench, Case, Make, changed

SMALL = "--dataset {table} --method head --epochs 1 --max-length 32 --device cpu --precision fp32"
LOOK = f"estimate --model {{given}} {SMALL}"
"""Takes a model's description; no weights."""

TRAIN = f"train --model {{given}} {SMALL} --output {{place}}/out"
PREDICT = "predict --model-path {given} --device cpu w1"


def spoilt(spoil: Callable[[Path], object], *, adapter: bool = False) -> Make:
    """A copy of the tiny model, or of the run of LoRA, with something done to it; a run is sealed again."""

    def make(bench: Bench) -> Path:
        from loratory.disk.manifest import seal

        folder = bench.copied(bench.adapter if adapter else bench.model)
        spoil(folder)
        if adapter:
            (folder / "manifest.json").unlink()
            seal(folder)
        return folder

    return make


def setting(file: str, adapter: bool = False, **change: Any) -> Make:
    return spoilt(lambda folder: changed(folder / file, change), adapter=adapter)


def replaced(file: str, content: str | bytes | Callable[[], bytes], *, adapter: bool = False) -> Make:
    def spoil(folder: Path) -> None:
        made = content() if callable(content) else content
        (folder / file).write_bytes(made.encode() if isinstance(made, str) else made)

    return spoilt(spoil, adapter=adapter)


def linked(file: str) -> Make:
    """A file that is a link to the same one elsewhere."""

    def make(bench: Bench) -> Path:
        folder = bench.copied(bench.model)
        (folder / file).unlink(missing_ok=True)
        target = bench.model / file
        (folder / file).symlink_to(target if target.is_file() else "/etc/passwd")
        return folder

    return make


DEEP = {"a": [[[[[[[[[[1]]]]]]]]]]}
STEERING: dict[str, Any] = {
    "auto_map": {"AutoModel": "modeling_x.Model"},
    "automap": {"AutoModel": "modeling_x.Model"},
    "trust_remote_code": True,
    "code_revision": "main",
    "custom_pipelines": {"x": {"impl": "x.Pipeline", "pt": ["AutoModel"]}},
    "custom_generate": "someone/generate",
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "kernels-community/flash-attn:flash",
    "_attn_implementation_internal": "someone/kernel@main",
    "attn_implementation_internal": {"": "someone/kernel"},
    "_experts_implementation": "someone/kernel",
    "use_kernels": True,
    "kernels": {"RMSNorm": "someone/kernel"},
    "kernel_config": {"RMSNorm": "someone/kernel:x"},
    "kernel_mapping": {"RMSNorm": {"cuda": "someone/kernel"}},
    "compression_config": {"quant_method": "x"},
    "transformers_weights": "../weights.safetensors",
    "configuration_files": ["config.5.0.json"],
    "base_model_tp_plan": {"layers.*": "colwise"},
    "device_map": "auto",
    "distributed_config": {"enable": True},
    "adapter_path": "/somewhere",
    "peft_config": {"path": "x"},
    "gguf_file": "x.gguf",
    "subfolder": "../x",
    "revision": "main",
    "cache_dir": "/tmp/x",
    "token": "x",
    "proxies": {"http": "127.0.0.1"},
    "state_dict": {"x": 1},
    "backbone": "resnet18",
    "timm_model": "x",
    "per_layer_config": {"0": {"hidden_size": 1}},
}
"""Keys by which a library could be told to run or fetch something."""

WORTHLESS: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
    ("a path as a value", {"note": "../../etc/passwd"}, RUNS),
    ("an absolute path as a value", {"note": "/etc/passwd"}, RUNS),
    ("an address as a value", {"note": "http://127.0.0.1/x"}, RUNS),
    ("a method of the class as a key", {"save_pretrained": 1}, RUNS),
    ("the class as a key", {"__class__": "x"}, RUNS),
    ("an object under an unknown key", {"note": {"x": 1}}, RUNS),
    ("nesting of 10", {"task_specific_params": DEEP}, RUNS),
    ("a list of 100,000", {"note": [0] * 100_000}, RUNS),
    ("an activation that is an address", {"hidden_act": "http://127.0.0.1/x"}, RUNS),
    ("an activation that there is not", {"hidden_act": "os.system"}, DAMAGED),
    ("a type that is none", {"dtype": "system"}, DAMAGED),
    ("a type that is a path", {"torch_dtype": "../x"}, DAMAGED),
    ("2⁴⁰ layers", {"num_hidden_layers": 1 << 40}, RUNS),
    ("a hidden size of 2⁶²", {"hidden_size": 1 << 62}, RUNS),
    ("a hidden size of 10²⁰⁰⁰", {"hidden_size": 10**2000}, RUNS),
    ("a vocabulary of 2³⁰", {"vocab_size": 1 << 30}, RUNS),
    ("positions of 2⁴⁰", {"max_position_embeddings": 1 << 40}, RUNS),
    ("types of 2³⁰", {"type_vocab_size": 1 << 30}, RUNS),
    ("labels of 2³⁰", {"num_labels": 1 << 30}, RUNS),
    ("a hidden size below zero", {"hidden_size": -32}, DAMAGED),
    ("no layers", {"num_hidden_layers": 0}, DAMAGED),
    ("heads that do not divide the size", {"num_attention_heads": 3}, DAMAGED),
    ("a size that is a text", {"hidden_size": "32"}, DAMAGED),
    ("a size that is a list", {"hidden_size": [32]}, DAMAGED),
    ("a size with a fraction", {"hidden_size": 32.5}, DAMAGED),
    ("a size that is true", {"hidden_size": True}, DAMAGED),
    ("a dropout that is a text", {"hidden_dropout_prob": "x"}, DAMAGED),
    ("labels that are a list", {"id2label": [["a"]]}, DAMAGED),
    ("labels numbered by words", {"id2label": {"x": "a"}}, DAMAGED),
    ("labels of 200,000", {"id2label": {str(n): "a" for n in range(200_000)}}, RUNS),
    ("pruned heads", {"pruned_heads": {"0": [0, 1]}}, DAMAGED),
    ("quantised weights", {"quantization_config": {"quant_method": "gptq", "modules": "/x.py"}}, DAMAGED),
    ("quantised weights of no kind", {"quantization_config": "x.Quantizer"}, DAMAGED),
    ("a family that there is not", {"model_type": "../x"}, DAMAGED),
    ("a family of pictures", {"model_type": "vit"}, DAMAGED),
    ("a family that is a list", {"model_type": ["bert"]}, DAMAGED),
)

DOCUMENTS: tuple[tuple[str, str | bytes, tuple[int, ...]], ...] = (
    ("is no JSON", "{", DAMAGED),
    ("is a list", "[]", DAMAGED),
    ("is empty", "", DAMAGED),
    ("is a pickle", pickle.dumps({"model_type": "bert"}), DAMAGED),
    ("is not UTF-8", b'{"model_type": "\xff"}', DAMAGED),
    ("holds a key twice", '{"model_type": "bert", "auto_map": {}, "model_type": "x"}', DAMAGED),
    ("holds NaN", '{"model_type": "bert", "hidden_size": NaN}', DAMAGED),
    ("holds an infinity", '{"model_type": "bert", "hidden_size": -Infinity}', DAMAGED),
    ("holds 1e999", '{"model_type": "bert", "initializer_range": 1e999}', RUNS),
    ("holds a number of 5,000 digits", '{"model_type": "bert", "x": ' + "9" * 5000 + "}", DAMAGED),
    ("is nested 100,000 deep", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", RUNS),
    ("has 5 MiB", '{"model_type": "bert", "x": "' + "a" * (5 << 20) + '"}', RUNS),
    ("has 200,000 keys that end in one twice",
     "{" + ", ".join(f'"k{n}": 0' for n in range(200_000)) + ', "k199999": 0}', DAMAGED),
)  # fmt: skip

CONFIGS = [
    *(Case(f"config.json says {key}", setting("config.json", **{key: value}), LOOK) for key, value in STEERING.items()),
    *(Case(f"config.json has {what}", setting("config.json", **change), LOOK, codes)
      for what, change, codes in WORTHLESS),
    *(Case(f"config.json {what}", replaced("config.json", content), LOOK, codes) for what, content, codes in DOCUMENTS),
    *(Case(f"{file} is a link out of the directory", linked(file), TRAIN)
      for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
    Case("vocab.txt is a link to the system's", linked("vocab.txt"), LOOK),
]  # fmt: skip


def header(document: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: Any, end: Any, shape: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def tensors(change: Callable[[dict[str, Any]], None], **metadata: str) -> Make:
    """The tiny model's weights, changed."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt", **metadata})

    return spoilt(spoil)


def holding(number: float) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        next(tensor for name, tensor in held.items() if name.endswith("key.weight")).view(-1)[5] = number

    return change


def extra(held: dict[str, Any]) -> None:
    held["encoder.layer.9.output.dense.weight"] = held["embeddings.LayerNorm.weight"].clone()


def missing(held: dict[str, Any]) -> None:
    del held["encoder.layer.1.output.dense.weight"]


def reshaped(held: dict[str, Any]) -> None:
    held["embeddings.LayerNorm.weight"] = held["embeddings.LayerNorm.weight"].reshape(2, -1).clone()


FILES: tuple[tuple[str, Callable[[], bytes], tuple[int, ...]], ...] = (
    ("is empty", lambda: b"", DAMAGED),
    ("has no header", lambda: b"\x00" * 4, DAMAGED),
    ("claims a header of 2⁶³", lambda: header({}, length=1 << 63), DAMAGED),
    ("has a header of 5 MiB", lambda: header({}, length=5 << 20) + b" " * (6 << 20), RUNS),
    ("has 50,001 tensors", lambda: header({f"t{n}": entry(0, 0, [0]) for n in range(50_001)}), RUNS),
    ("has a header that is a list", lambda: header([]), DAMAGED),
    ("has a header that is no JSON", lambda: header(b"{x"), DAMAGED),
    ("has a header nested 100,000 deep", lambda: header(b"[" * 100_000 + b"]" * 100_000), RUNS),
    ("has a name twice", lambda: header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}'),
     DAMAGED),
    ("has tensors that overlap", lambda: header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), DAMAGED),
    ("has a hole", lambda: header({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), DAMAGED),
    ("has offsets beyond its end", lambda: header({"a": entry(0, 1 << 40, [1 << 38])}, bytes(8)), DAMAGED),
    ("has more bytes than tensors", lambda: header({"a": entry(0, 4, [1])}, bytes(80)), DAMAGED),
    ("has offsets below zero", lambda: header({"a": entry(-4, 0, [1])}, bytes(4)), DAMAGED),
    ("has offsets that run backwards", lambda: header({"a": entry(4, 0, [1])}, bytes(4)), DAMAGED),
    ("has sides below zero", lambda: header({"a": entry(0, 4, [-1, -1])}, bytes(4)), DAMAGED),
    ("has sides whose product wraps around", lambda: header({"a": entry(0, 0, [1 << 32, 1 << 32])}), DAMAGED),
    ("has a side of 2⁵³", lambda: header({"a": entry(0, 0, [1 << 53, 0])}), DAMAGED),
    ("has sides that are texts", lambda: header({"a": entry(0, 4, ["1"])}, bytes(4)), DAMAGED),
    ("has a side with a fraction", lambda: header({"a": entry(0, 4, [1.0])}, bytes(4)), DAMAGED),
    ("has a side that is true", lambda: header({"a": entry(0, 4, [True])}, bytes(4)), DAMAGED),
    ("has a thousand sides", lambda: header({"a": entry(0, 4, [1] * 1000)}, bytes(4)), DAMAGED),
    ("has another type", lambda: header({"a": entry(0, 4, [4], "F8_E4M3")}, bytes(4)), DAMAGED),
    ("has a type that is a path", lambda: header({"a": entry(0, 4, [1], "../x")}, bytes(4)), DAMAGED),
    ("has a type that is a list", lambda: header({"a": entry(0, 4, [1], ["F32"])}, bytes(4)), DAMAGED),
    ("has a tensor that is a text", lambda: header({"a": "x"}), DAMAGED),
    ("has three offsets", lambda: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}), DAMAGED),
    ("has NaN in its header", lambda: header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}'),
     DAMAGED),
    ("is a pickle", lambda: pickle.dumps({"a": 1}), DAMAGED),
    ("has no tensors", lambda: header({}), DAMAGED),
)  # fmt: skip


def index(weight_map: Any) -> Make:
    """A model in shards."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return spoilt(spoil)


def pickled(name: str) -> Make:
    """A directory whose only weights are a pickle that would run."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch it-ran'\ntR.")

    return spoilt(spoil)


WEIGHTS = [
    *(Case(f"model.safetensors {what}", replaced("model.safetensors", content), TRAIN, codes)
      for what, content, codes in FILES),
    *(Case(f"a weight is {number}", tensors(holding(number)), TRAIN, DAMAGED)
      for number in (math.nan, math.inf, -math.inf)),
    Case("a weight has another shape", tensors(reshaped), TRAIN, DAMAGED),
    Case("a weight is missing", tensors(missing), TRAIN, DAMAGED),
    Case("a weight too many", tensors(extra), TRAIN, DAMAGED),
    Case("an index that names a file outside", index({"a": "../a.safetensors"}), TRAIN),
    Case("an index that names an absolute file", index({"a": "/etc/passwd"}), TRAIN),
    Case("an index that names a directory", index({"a": ".."}), TRAIN),
    Case("an index that names a pickle", index({"a": "pytorch_model.bin"}), TRAIN, DAMAGED),
    Case("an index of nothing", index({}), TRAIN, DAMAGED),
    Case("an index that is a list", index(["a"]), TRAIN, DAMAGED),
    *(Case(f"{name} alone", pickled(name), TRAIN, DAMAGED)
      for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth", "model.pkl",
                   "tf_model.h5", "model.ckpt.index", "model.gguf", "flax_model.msgpack")),
]  # fmt: skip

ADAPTER: dict[str, Any] = {
    "auto_mapping": {"base_model_class": "X", "parent_library": "os"},
    "layer_replication": [[0, 1_000_000]],
    "megatron_config": {"x": 1},
    "megatron_core": "os",
    "eva_config": {"rho": 2.0},
    "corda_config": {"cache_file": "/tmp/x"},
    "loftq_config": {"loftq_bits": 4},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "init_lora_weights": "eva",
    "target_modules": "(a+)+$",
    "exclude_modules": ".*(x+)*y",
    "rank_pattern": {"(a+)+b": 8},
    "alpha_pattern": {"(a|a)*b": 8},
    "r": 1 << 40,
    "lora_alpha": 1 << 60,
    "revision": "../x",
    "layers_to_transform": list(range(5000)),
    "peft_type": "XLORA",
    "modules_to_save": ["../x"],
    "layers_pattern": "(a+)+",
}

ADAPTED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a rank that is a text", {"r": "8"}),
    ("a rank below zero", {"r": -8}),
    ("a rank of 0", {"r": 0}),
    ("layers that are a number", {"target_modules": 7}),
    ("layers that there are not", {"target_modules": ["nothing"]}),
    ("a kind that there is not", {"peft_type": "os.system"}),
    ("a kind that is a list", {"peft_type": ["LORA"]}),
    ("a setting that PEFT does not know", {"note": "x"}),
    ("a dropout of 7", {"lora_dropout": 7.0}),
    ("a bias that there is not", {"bias": "x"}),
)

ADAPTERS = [
    *(Case(f"adapter_config.json says {key}", setting("adapter_config.json", adapter=True, **{key: value}), PREDICT)
      for key, value in ADAPTER.items()),
    *(Case(f"adapter_config.json has {what}", setting("adapter_config.json", adapter=True, **change), PREDICT, DAMAGED)
      for what, change in ADAPTED),
    *(Case(f"adapter_config.json {what}", replaced("adapter_config.json", content, adapter=True), PREDICT, DAMAGED)
      for what, content, _ in DOCUMENTS[:5]),
    *(Case(f"adapter_model.safetensors {what}", replaced("adapter_model.safetensors", content, adapter=True), PREDICT,
           DAMAGED) for what, content, _ in FILES[:6]),
    Case("the adapter's tokenizer names code",
         setting("tokenizer_config.json", adapter=True, auto_map={"AutoTokenizer": ["x.X", None]}), PREDICT),
]  # fmt: skip
