"""Study files, tables of texts, and the archives of the packaged items."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from corpus import DAMAGED, RUNS, Bench, Case, Make
from pickles import written

STUDY = "study run {given} --output {place}/out"
DATA = (
    "train --model {model} --dataset {given} --method head --epochs 1 --max-length 32 --device cpu --output {place}/out"
)
TEXTS = "predict --model-path {adapter} --device cpu --input {given}"

GOOD = "name: s\ndata: [x.csv]\nmodels: [m]\nmethods: [head]\nseeds: [0]\n"


def laughs() -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    return "\n".join(lines)


YAML: tuple[tuple[str, str | bytes], ...] = (
    ("a tag that calls", f"{GOOD}x: !!python/object/apply:os.system ['touch it-ran']\n"),
    ("a tag that makes an object", f"{GOOD}x: !!python/object/new:subprocess.Popen [[touch, it-ran]]\n"),
    ("a tag that names a function", f"{GOOD}x: !!python/name:os.system\n"),
    ("a tag that imports", f"{GOOD}x: !!python/module:antigravity\n"),
    ("a tag of bytes", f"{GOOD}x: !!binary YQ==\n"),
    ("a tag of a set", f"{GOOD}x: !!set {{a, b}}\n"),
    ("a tag of its own", f"{GOOD}x: !include /etc/passwd\n"),
    ("a billion laughs", laughs()),
    ("an alias of itself", f"{GOOD}x: &x [*x]\n"),
    ("an anchor", f"{GOOD}x: &x 1\n"),
    ("a merge", f"{GOOD}x: {{<<: {{seeds: [1]}}}}\n"),
    ("a key twice", f"{GOOD}seeds: [1]\n"),
    ("two documents", f"{GOOD}---\n{GOOD}"),
    ("a key that is a list", f"{GOOD}? [a]\n: 1\n"),
    ("nesting of 13", f"{GOOD}x: " + "[" * 13 + "]" * 13),
    ("nesting of 100,000", f"{GOOD}x: " + "[" * 100_000),
    ("30,000 values", f"{GOOD}x: [" + "1, " * 30_000 + "1]\n"),
    ("2 MiB", f"{GOOD}# " + "x" * (2 << 20)),
    ("a date in place of a seed", GOOD.replace("[0]", "[2020-01-01]")),
    ("an infinity in place of a seed", GOOD.replace("[0]", "[.inf]")),
    ("a number of 5,000 digits", GOOD.replace("[0]", f"[{'9' * 5000}]")),
    ("a name that is a path", GOOD.replace("name: s", "name: ../../x")),
    ("no UTF-8", b"name: \xff\xfe\n"),
    ("control characters", b"name: a\x00\x1b[2J\n"),
    ("nothing", b""),
    ("a list", "- a\n"),
    ("a method that is code", GOOD.replace("[head]", "[\"__import__('os').system('touch it-ran')\"]")),
    ("a pickle", b"\x80\x04cos\nsystem\n."),
)


def parquet(rows: Callable[[], object], spoil: Callable[[bytes], bytes] = bytes) -> Make:
    """A table of Parquet, its bytes changed."""

    def make(bench: Bench) -> Path:
        import pyarrow.parquet as pq

        held = io.BytesIO()
        pq.write_table(rows(), held, compression="zstd")
        path = bench.place / "given.parquet"
        path.write_bytes(spoil(held.getvalue()))
        return path

    return make


def _nested() -> object:
    import pyarrow as pa

    kind = pa.string()
    for _ in range(60):
        kind = pa.list_(kind)
    return pa.table({"text": pa.array([None] * 4, kind), "label": ["a", "b", "a", "b"]})


def _texts(size: int) -> Callable[[], object]:
    def rows() -> object:
        import pyarrow as pa

        return pa.table({"text": ["x" * size, "y"], "label": [None, "b"]})

    return rows


def _binary() -> object:
    import pyarrow as pa

    return pa.table({"text": [b"\xff\xfe", b"x"], "label": ["a", "b"]})


TABLES = [
    *(Case(f"a study file with {what}", written(content.encode() if isinstance(content, str) else content, "s.yaml"),
           STUDY, (2, 8)) for what, content in YAML),
    *(Case(f"a table: {what}", written(content, name), DATA, DAMAGED) for what, name, content in (
        ("JSON nested 100,000 deep", "given.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
        ("JSON with a text of 50 MB and no label", "given.jsonl", b'{"text": "' + b"x" * 50_000_000 + b'"}\n'),
        ("JSON with a number of 10,000 digits", "given.jsonl", b'{"text": "x", "label": ' + b"9" * 10_000 + b"}\n"),
        ("JSON with objects as texts", "given.jsonl", b'{"text": {"a": 1}, "label": "x"}\n'),
        ("JSON with half a character", "given.jsonl", b'{"text": "\\ud800", "label": "x"}\n' * 3),
        ("a list of JSON", "given.jsonl", b'[{"text": "x", "label": "y"}]\n'),
        ("CSV with a text of 50 MB and no end", "given.csv", b'text,label\n"' + b"x" * 50_000_000),
        ("CSV with a NUL", "given.csv", b"text,label\na\x00b,c\n"),
        ("CSV with 100,000 columns", "given.csv", b"text," * 100_000 + b"label\n"),
        ("CSV with a column twice", "given.csv", b"text,label,label\na,b,c\n"),
        ("CSV that is not UTF-8", "given.csv", b"text,label\n\xff\xfe,b\n"),
        ("CSV that is a pickle", "given.csv", b"\x80\x04cos\nsystem\n."),
        ("CSV that is an archive", "given.csv", b"PK\x03\x04" + bytes(40)),
        ("CSV that is gzip", "given.csv", b"\x1f\x8b" + bytes(40)),
        ("CSV that is Parquet", "given.csv", b"PAR1" + bytes(40) + b"PAR1"),
        ("Parquet that is CSV", "given.parquet", b"text,label\na,b\n"),
        ("Parquet that is a pickle", "given.parquet", b"\x80\x04cos\nsystem\n."),
        ("Parquet with a footer of 2 GiB", "given.parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"),
        ("a pickle by its name", "given.pkl", b"cos\nsystem\n(S'touch it-ran'\ntR."),
        ("Arrow by its name", "given.arrow", b"ARROW1"),
        ("nothing", "given.csv", b""),
    )),
    Case("a table: Parquet with lists in lists", parquet(_nested), DATA, DAMAGED),
    Case("a table: Parquet with bytes as texts", parquet(_binary), DATA, DAMAGED),
    Case("a table: Parquet with a text of 50 MB in some kilobytes", parquet(_texts(50_000_000)), DATA, DAMAGED),
    Case("a table: Parquet whose pages are damaged",
         parquet(_texts(5000), lambda data: data[:8] + bytes(16) + data[24:]), DATA, DAMAGED),
    Case("a table: Parquet cut short", parquet(_texts(5000), lambda data: data[:-20]), DATA, DAMAGED),
    Case("texts to label: JSON nested 100,000 deep",
         written(b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "given.jsonl"), TEXTS, DAMAGED),
]  # fmt: skip


def packed(*members: tuple[str, bytes | str], inner: bool = False) -> bytes:
    """An archive; a text is what a link leads to."""
    held = io.BytesIO()
    if inner:
        with tarfile.open(fileobj=held, mode="w:gz") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    tar.addfile(info)
                else:
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return packed(("LICENSE", b"x"), ("inner.tar.gz", held.getvalue()))
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members:
            out.writestr(name, content)
    return held.getvalue()


PACKED: tuple[tuple[str, bytes | Callable[[], bytes]], ...] = (
    ("that is none", b"x" * 100),
    ("without the file", packed(("other", b"x"))),
    ("with the name made absolute", packed(("/LICENSE", b"x"))),
    ("with the name in another folder", packed(("../LICENSE", b"x"))),
    ("with a link in the place of the file", lambda: packed(("a.txt", "/etc/passwd"), inner=True)),
    ("with a link of its own out of the archive", lambda: packed(("a.txt", "../../../etc/passwd"), inner=True)),
    ("with the file in another folder, within", lambda: packed(("../a.txt", b"x"), inner=True)),
    ("with an archive within that is none", packed(("LICENSE", b"x"), ("inner.tar.gz", b"x" * 100))),
    ("with other contents", lambda: packed(("a.txt", b"x"), inner=True)),
)


def fetched(content: bytes | Callable[[], bytes], *, pinned: bool) -> Make:
    """An archive in the folder for downloads, and the packaged item `hostile` that is to be taken out of it."""

    def make(bench: Bench) -> Path:
        made = content if isinstance(content, bytes) else content()
        place = bench.place / "data" / "downloads" / "hostile.zip"
        place.parent.mkdir(parents=True)
        place.write_bytes(made)
        (bench.place / "sha256").write_text(hashlib.sha256(made if pinned else b"").hexdigest())
        return place

    return make


ARCHIVES = [
    *(Case(f"an archive {what}", fetched(content, pinned=True), "data fetch hostile") for what, content in PACKED),
    Case("an archive that is not the pinned one", fetched(b"x", pinned=False), "data fetch hostile", RUNS),
]  # fmt: skip
