"""`export --push` uploads the directory with the user's token, private unless it is to be public."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from loratory.cli import main
from loratory.run import Run


class Hub:
    """The hub's API: what is there, and what was asked of it."""

    def __init__(self, *, private: bool | None = None) -> None:
        self.endpoint = "https://hub"
        self.private = private
        self.uploaded: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        if self.private is None:
            self.private = private
        assert exist_ok
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def model_info(self, repo_id: str) -> Any:
        assert repo_id == "me/mine"
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert repo_id == "me/mine"
        self.uploaded = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_xyz")


def served(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


def exported(run: Run, output: Path, *arguments: str) -> int:
    return main(["export", "--model-path", str(run.directory), "--output", str(output), *arguments])


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(("flags", "private"), [([], True), (["--public"], False)])
@pytest.mark.parametrize("name", ["mine", "me/mine"])
def test_all_files_are_uploaded_private_unless_public(
    flags: list[str],
    private: bool,
    name: str,
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    hub, output = served(Hub(), monkeypatch), tmp_path / "out"
    assert exported(runs["lora"], output, "--format", "adapter", "--push", name, *flags) == 0
    assert hub.private is private
    assert hub.uploaded == {path.name: path.read_bytes() for path in output.iterdir()}
    assert f"/me/mine ({'private' if private else 'public'})" in capsys.readouterr().err.replace("\n", "")
    config = json.loads(hub.uploaded["adapter_config.json"])
    base = Path(runs["lora"].record.spec["model"])
    assert config["base_model_name_or_path"] == base.name
    for content in hub.uploaded.values():
        assert str(base.parent).encode() not in content


@pytest.mark.usefixtures("token")
def test_what_is_public_already_gets_nothing_unasked(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    hub = served(Hub(private=False), monkeypatch)
    assert exported(runs["head"], tmp_path / "out", "--format", "merged", "--push", "me/mine") == 2
    assert hub.uploaded == {}
    err = capsys.readouterr().err
    assert err.startswith("error: --push me/mine: it is public already; give --public, or another name")
    assert f"the export is in {tmp_path / 'out'}" in err
    assert (tmp_path / "out" / "README.md").is_file()
    assert exported(runs["head"], tmp_path / "again", "--format", "merged", "--push", "me/mine", "--public") == 0
    assert "model.safetensors" in hub.uploaded


@pytest.mark.usefixtures("token")
def test_a_hub_that_cannot_be_reached_is_one_line_and_the_export_stays(
    runs: dict[str, Run], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    assert exported(runs["head"], output, "--format", "merged", "--push", "me/mine") == 5  # HF_HUB_OFFLINE is set
    err = capsys.readouterr().err
    assert err.startswith("error: cannot upload to me/mine: ")
    assert err.endswith(f"; the export is in {output}\n")
    assert err.count("\n") == 1
    assert (output / "model.safetensors").is_file()


@pytest.mark.usefixtures("token")
def test_a_hub_that_refuses_is_one_line(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refused(**settings: Any) -> None:
        raise huggingface_hub.errors.HTTPError("403 Forbidden\nRequest ID: 7")

    hub = served(Hub(), monkeypatch)
    monkeypatch.setattr(hub, "upload_folder", refused)
    assert exported(runs["head"], tmp_path / "out", "--format", "merged", "--push", "mine") == 5
    line = f"error: cannot upload to me/mine: 403 Forbidden; the export is in {tmp_path / 'out'}\n"
    assert capsys.readouterr().err == line


def test_without_a_token_nothing_is_exported(
    runs: dict[str, Run], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert exported(runs["head"], tmp_path / "out", "--format", "merged", "--push", "me/mine") == 6
    assert capsys.readouterr().err == "error: --push: no token of the hub; run `hf auth login`, or set HF_TOKEN\n"
    assert list(tmp_path.iterdir()) == []
