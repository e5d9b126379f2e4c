"""The door for weight files: whole and sharded models, adapters of stock PEFT, and what is not let in."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from loratory.cli import main
from loratory.engine.hardware import Hardware
from loratory.engine.predict import predict
from loratory.errors import LoratoryError, ModelError, OutOfMemoryError, ResourceError, SafetyError
from loratory.models import source
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base, load_trained
from loratory.models.source import pretrained, quiet, read_tokenizer
from loratory.spec import HardwareSpec

INDEX = "model.safetensors.index.json"
LABELS = ("a", "b")
CPU = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))


@pytest.fixture
def sharded(tiny_bert: Path, tmp_path: Path) -> Path:
    """The tiny BERT in several files."""
    from transformers import AutoModel

    place = tmp_path / "sharded"
    shutil.copytree(tiny_bert, place)
    (place / "model.safetensors").unlink()
    with quiet():
        AutoModel.from_pretrained(tiny_bert).save_pretrained(place, max_shard_size="20KB")
    assert len(shards(place)) > 2
    return place


def shards(place: Path) -> list[Path]:
    return sorted(place.glob("model-*.safetensors"))


def load(place: Path) -> Base:
    return load_base(str(place), labels=LABELS, seed=0)


def logits(base: Base, data: Any) -> Any:
    return predict(Classifier(base.model.eval(), base.family, base.pad_id), data, hardware=CPU).numpy()


def refused(place: Path, error: type[LoratoryError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        load(place)
    assert "\n" not in str(caught.value)


def test_a_sharded_model_is_the_whole_one(sharded: Path, tiny_bert: Path) -> None:
    found, expected = load(sharded), load(tiny_bert)
    assert found.digest != expected.digest  # other files
    state = expected.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    with shards(sharded)[-1].open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    assert load(sharded).digest != found.digest  # every shard counts


def test_a_model_of_the_hub_comes_through_the_same_door(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's client keeps it: a folder for each revision, and a file that names the newest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--someone--bert"
    place = kept / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_bert, place)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    found, expected = load_base("someone/bert", labels=LABELS, seed=0), load(tiny_bert)
    assert (found.source, found.digest) == ("someone/bert", "0" * 40)
    state = expected.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(SafetyError, match="model 'someone/bert': the hub has no safetensors of it"):
        load_base("someone/bert", labels=LABELS, seed=0)


def test_without_the_hub_an_error_names_the_model_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"model .someone/none.: .*; without the hub there is minilm, or a directory"):
        load_base("someone/none", labels=LABELS, seed=0)


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_missing_shard_is_named(number: int, sharded: Path) -> None:
    gone = shards(sharded)[number]
    gone.unlink()
    refused(sharded, ModelError, f"{gone.name} are missing")


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_truncated_shard_is_named(number: int, sharded: Path) -> None:
    path = shards(sharded)[number]
    path.write_bytes(path.read_bytes()[:-50])
    refused(sharded, ModelError, f"{path.name} are damaged or truncated")


@pytest.mark.parametrize("name", ["../{}", "{}/../../whole", "/etc/passwd", "..", "."])
def test_a_shard_outside_the_directory_is_refused(name: str, sharded: Path) -> None:
    shutil.copy(shards(sharded)[0], sharded.parent)  # it would be there
    place_first_weight(sharded, name.format(shards(sharded)[0].name))
    refused(sharded, SafetyError, "names a weight file outside its directory")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "", 3, None])
def test_a_shard_that_is_no_safetensors_file_is_refused(name: object, sharded: Path) -> None:
    torch.save({"x": torch.ones(1)}, sharded / "pytorch_model.bin")
    place_first_weight(sharded, name)
    refused(sharded, SafetyError, "is no safetensors file")


def place_first_weight(place: Path, name: object) -> None:
    index = json.loads((place / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    (place / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": 3}']
)
def test_an_index_that_is_none_is_one_line(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, ModelError, "index")


def test_where_there_is_a_whole_file_its_index_is_not_asked(sharded: Path, tiny_bert: Path) -> None:
    shutil.copy(tiny_bert / "model.safetensors", sharded)
    assert load(sharded).digest == load(tiny_bert).digest  # transformers takes the whole file, so it is what we check
    whole = sharded / "model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-50])
    refused(sharded, ModelError, "model.safetensors are damaged or truncated")


def header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + size])
    change(tensors)
    text = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.fixture
def whole(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT to be damaged."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "whole"))


def test_a_header_that_claims_more_than_the_file_has(whole: Path) -> None:
    path = whole / "model.safetensors"

    def more(tensors: dict[str, Any]) -> None:
        last = max(
            (entry for name, entry in tensors.items() if name != "__metadata__"), key=lambda e: e["data_offsets"]
        )
        begin = last["data_offsets"][0]
        last.update(shape=[1 << 30], data_offsets=[begin, begin + (4 << 30)])

    before = path.read_bytes()
    header(path, more)
    refused(whole, ModelError, "damaged or truncated")
    path.write_bytes(struct.pack("<Q", 1 << 60) + before[8:])
    refused(whole, ModelError, "damaged or truncated")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "bloom"},
        {"model_type": "wonder"},
        {"model_type": None},
        {"model_type": ["bert"]},
        {"hidden_size": "wide"},
        {"hidden_size": -32},
        {"num_attention_heads": 3},
    ],
)
def test_an_architecture_or_setting_out_of_the_table_is_one_line(change: dict[str, Any], whole: Path) -> None:
    config = whole / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    refused(
        whole,
        ModelError,
        "architecture 'bloom' is not supported" if "bloom" in change.values() else "model|hidden_size",
    )


def test_an_unknown_family_is_exit_code_4(whole: Path, tiny_csv: Path, tmp_path: Path, capsys: Any) -> None:
    config = whole / "config.json"
    command = ["train", f"--model={whole}", f"--dataset={tiny_csv}", "--device=cpu", f"--output={tmp_path / 'run'}"]
    for family in ("bloom", "wonder"):
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": family}))
        assert main(command) == 4
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: ")
        assert family in err
    assert not (tmp_path / "run").exists()


def test_a_model_without_tokenizer_is_refused(whole: Path) -> None:
    for path in whole.glob("token*"):
        path.unlink()
    refused(whole, ModelError, "has no tokenizer")


@pytest.mark.parametrize("targets", [["query"], ["word_embeddings", "query"], ["word_embeddings"]])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.filterwarnings("ignore:.*embedding")  # PEFT says that it saves the embeddings whole
def test_an_adapter_that_stock_peft_saved_under_a_name_of_its_own(
    targets: list[str], merge: bool, tiny_bert: Path, labelled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "meta")  # a GPU that this run was not given

    data = labelled([7, 3, 12])
    base = load(tiny_bert)
    plain = logits(base, data)
    config = LoraConfig(
        r=3, target_modules=targets, modules_to_save=["bert.pooler", "classifier"], init_lora_weights=False
    )
    with quiet():
        model = get_peft_model(base.model, config, adapter_name="mine")
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.data += 0.1
        model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path / "mine")
    expected = logits(base, data)
    assert np.abs(expected - plain).max() > 0.01
    found = load_trained(tmp_path / "mine", adapter=True, model=str(tiny_bert), labels=LABELS, merge=merge)
    np.testing.assert_allclose(logits(found, data), expected, atol=1e-5)
    assert merge == (not any("lora_" in name for name in found.model.state_dict()))


@pytest.mark.parametrize("there", ["", "protobuf"])
def test_a_tokenizer_that_is_sentencepiece_s_file_alone_names_the_packages_that_read_it(
    there: str, model_directory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_directory("deberta-v2") / name, place / name)
    (place / "spm.model").write_bytes(b"\x0a\x05\x0a\x01a\x15\x00")  # as deberta-v3 is published, in small
    monkeypatch.setattr(source, "is_sentencepiece_available", lambda: False)
    monkeypatch.setattr(source, "is_protobuf_available", lambda: bool(there))
    monkeypatch.setattr(source.AutoTokenizer, "from_pretrained", unreadable)
    needed = "sentencepiece" if there else "sentencepiece and protobuf"
    line = f'its tokenizer is spm.model alone, which needs {needed}; run: pip install "loratory[sentencepiece]", or'
    with pytest.raises(ResourceError, match=re.escape(f"model {str(place)!r}: {line}")):
        pretrained(str(place))
    with pytest.raises(ResourceError, match=re.escape(f"adapter {place}: {line}")):
        read_tokenizer(place, vocabulary=100)
    monkeypatch.setattr(source, "is_sentencepiece_available", lambda: True)
    monkeypatch.setattr(source, "is_protobuf_available", lambda: True)
    with pytest.raises(ModelError, match="tiktoken"):  # whatever else is wrong
        pretrained(str(place))


def unreadable(*_: Any, **__: Any) -> Any:
    """What transformers raises where it has no SentencePiece: it takes the file for another kind's."""
    raise ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
        RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        torch.OutOfMemoryError("no room"),
    ],
    ids=lambda raised: f"{type(raised).__name__} {raised}"[:40],
)
def test_a_model_that_memory_does_not_hold_is_no_damaged_one(
    raised: Exception, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", fail)
    with pytest.raises(OutOfMemoryError, match=r"memory ran out while it was loaded \(.+\); free memory, or take"):
        load_base(str(tiny_bert), labels=LABELS, seed=0)


@pytest.mark.parametrize("raised", [SafetensorError("InvalidHeader"), RuntimeError("odd"), OSError(5, "odd")])
def test_what_else_loading_raises_is_a_model_s_error(
    raised: Exception, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", fail)
    with pytest.raises(ModelError, match=r"^model '.+': "):
        load_base(str(tiny_bert), labels=LABELS, seed=0)
