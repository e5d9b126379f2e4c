"""`.pth` files: tensors come back as they were, and nothing else comes in."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.errors import LoratoryError, ModelError, SafetyError
from loratory.models import pth, pth_child
from loratory.models.pth import Card, read_pth, save_pth, tensors_of

STATE = {"weight": torch.arange(2000.0), "bias": torch.ones(3, dtype=torch.int64)}


class Call:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


DAMAGED = "damaged or truncated; copy it again, or export the run again$"


def refused(path: Path, error: type[LoratoryError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        read_pth(path)
    assert "\n" not in str(caught.value)


def saved(path: Path, state: Any, *, layout: str = "zip") -> Path:
    if layout == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def repacked(path: Path, change: Callable[[str, bytes], bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    """The archive with the content of its entries changed."""
    target = path.with_name("repacked.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_tensors_come_back_as_they_were(layout: str, tmp_path: Path) -> None:
    found = read_pth(saved(tmp_path / "a.pth", STATE, layout=layout))
    assert list(found) == list(STATE)
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in found.items())


def test_the_card_says_what_the_tensors_cannot(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    digests = {"source": "s", "train": "t"}
    save_pth(model, tmp_path / "a.pth", base="tiny", labels=("bad", "good"), data={"max_length": 7}, digests=digests)
    card = Card.read(tmp_path / "a.json")
    assert card is not None
    assert (card.model, card.labels, card.data) == ("tiny", ("bad", "good"), {"max_length": 7})
    assert card.digests == digests
    assert torch.equal(read_pth(tmp_path / "a.pth")["weight"], model.weight)
    assert Card.read(tmp_path / "absent.json") is None
    for text in ("", "[]", '{"labels": 3}', json.dumps({"labels": [], "model": "m", "data": 3, "sha256": ""})):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ModelError, match="does not describe a model"):
            Card.read(tmp_path / "a.json")


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("function", [os.system, subprocess.check_call, eval, exec])
@pytest.mark.parametrize("place", ["all", "value", "key", "beside"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(
    layout: str, function: Callable[..., Any], place: str, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    commands: dict[Any, tuple[Any, ...]] = {
        os.system: (f"touch {mark}",),
        subprocess.check_call: (["touch", str(mark)],),
    }
    call = Call(function, *commands.get(function, (f"open({str(mark)!r}, 'w').close()",)))
    states = {
        "all": call,
        "value": {"weight": call},
        "key": {call: torch.ones(2)},
        "beside": {"weight": torch.ones(2), "x": [{"y": (call,)}]},
    }
    path = saved(tmp_path / "a.pth", states[place], layout=layout)
    refused(path, SafetyError, "could run code; refused")
    assert not mark.exists()
    pickle.loads(pickle.dumps(call))
    assert mark.exists()  # it is a pickle that runs


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"weight": torch.ones(2), "note": "hello"}, "entry 'note' is a str"),
        ({"weight": {"deep": torch.ones(2)}}, "entry 'weight' is a dict"),
        ({3: torch.ones(2)}, "entry '3' is a Tensor"),
        ([torch.ones(2)], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({}, "holds a dict"),
        (None, "holds a NoneType"),
        (torch.nn.Linear(2, 2), "could run code"),
    ],
)
def test_anything_but_tensors_by_name_is_refused(state: Any, says: str, tmp_path: Path) -> None:
    refused(saved(tmp_path / "a.pth", state), SafetyError, says)


def test_a_file_above_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.truncate(pth.MAX_BYTES + 1)  # a hole: no disk is used
    refused(path, SafetyError, "above the limit of 8 GiB")
    saved(path, STATE)
    monkeypatch.setattr(pth, "MAX_BYTES", path.stat().st_size)
    assert read_pth(path)
    monkeypatch.setattr(pth, "MAX_BYTES", path.stat().st_size - 1)
    refused(path, SafetyError, "above the limit")


def test_a_view_that_would_unfold_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "a.pth", {"weight": torch.ones(1).expand(1 << 40)}), SafetyError, "claim more bytes")


def test_an_archive_that_would_unpack_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"weight": torch.zeros(1 << 20)})
    bomb = repacked(path, lambda name, data: data, method=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    refused(bomb, SafetyError, "unpacks to more bytes than the file holds")


@pytest.mark.parametrize("size", [0, 40, 7999])
def test_a_record_shorter_than_its_tensor_says(size: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"weight": torch.arange(2000.0)})
    short = repacked(path, lambda name, data: data[:size] if "/data/" in name else data)
    refused(short, ModelError, DAMAGED)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_truncated_file(layout: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", STATE, layout=layout)
    path.write_bytes(path.read_bytes()[:-3000])
    refused(path, ModelError, DAMAGED)


@cache
def small(layout: str) -> bytes:
    """A file of four numbers, the same at every call: torch names storages by their addresses in the older layout."""
    with TemporaryDirectory() as folder:
        return saved(Path(folder) / "a.pth", {"weight": torch.arange(4.0)}, layout=layout).read_bytes()


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_one_of_our_errors_or_none(layout: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path, content = Path(folder) / "a.pth", bytearray(small(layout))
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            answer = pth_child.told(str(path))  # what the process of its own says, without starting 120
            assert all(isinstance(tensor, torch.Tensor) for tensor in tensors_of(path, answer).values())
        except LoratoryError as error:
            assert "\n" not in str(error)  # noqa: PT017  # either way is right


@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_pth_are_one_of_our_errors(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.pth"
        path.write_bytes(content)
        with pytest.raises((ModelError, SafetyError)):
            tensors_of(path, pth_child.told(str(path)))
