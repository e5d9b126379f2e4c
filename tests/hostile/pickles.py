"""Pickles: what runs code when it is loaded, what claims more than it holds, what never ends."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from corpus import DAMAGED, RUNS, Bench, Case, Make

PTH = "evaluate --model-path {given} --model {model} --dataset {table} --device cpu"
Wrap = Callable[[bytes], bytes]

NUMBERS = bytes(16)
"""Four numbers of 32 bits: all that the files here hold."""

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


def bare(content: bytes) -> bytes:
    return content


def archive(content: bytes, *, numbers: bytes = NUMBERS, compressed: bool = False, more: int = 0) -> bytes:
    """As torch writes it since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as out:
        for name, data in {"data.pkl": content, "data/0": numbers, "version": b"3\n"}.items():
            out.writestr(f"archive/{name}", data)
        for number in range(more):
            out.writestr(f"archive{number}/data.pkl", content)
    return file.getvalue()


def old(content: bytes, *, keys: list[str] | None = None, claimed: int = 4) -> bytes:
    """As torch wrote it before."""
    begins = b"".join(pickle.dumps(part, 2) for part in MAGIC)
    return begins + content + pickle.dumps(keys or ["0"], 2) + struct.pack("<q", claimed) + NUMBERS


def value(given: Any) -> bytes:
    """The instructions that make it, without beginning and end."""
    return pickle.dumps(given, 2)[2:-1]


def called(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls it."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + value(arguments) + b"R."


def state(storage: Any = None, *, entry: bytes | None = None) -> bytes:
    """A state dict whose one entry is `entry`, or a tensor in `storage`."""
    return b"\x80\x02}" + value("weight") + (tensor(storage) if entry is None else entry) + b"s."


def tensor(
    storage: Any = None,
    shape: Any = (4,),
    strides: Any = (1,),
    *,
    offset: Any = 0,
    elements: Any = 4,
    kind: str = "FloatStorage",
    built: bytes = b"",
) -> bytes:
    """The instructions that make a tensor; `built` are put between the storage and what is made of it."""
    saved = b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + value("0") + value("cpu") + value(elements)
    held = saved + b"tQ" + built if storage is None else storage
    rest = value(offset) + value(shape) + value(strides) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + rest + b"tR"


MARK = "MARK"
"""Stands for the path of what a payload would leave."""

SCRIPT = f"open({MARK!r}, 'w')"

CALLS: tuple[tuple[Any, ...], ...] = (
    ("builtins", "eval", SCRIPT),
    ("builtins", "exec", SCRIPT),
    ("__builtin__", "eval", SCRIPT),
    ("builtins", "compile", SCRIPT, "x", "exec"),
    ("builtins", "open", MARK, "w"),
    ("builtins", "__import__", "antigravity"),
    ("builtins", "getattr", "x", "format"),
    ("builtins", "bytearray", 1 << 33),
    ("builtins", "type", "x"),
    ("os", "system", f"touch {MARK}"),
    ("posix", "system", f"touch {MARK}"),
    ("nt", "system", f"touch {MARK}"),
    ("os", "popen", f"touch {MARK}"),
    ("os", "mkdir", MARK),
    ("os", "execv", "/bin/touch", ["touch", MARK]),
    ("os", "posix_spawn", "/bin/touch", ["touch", MARK], {}),
    ("os", "_exit", 0),
    ("subprocess", "Popen", ["touch", MARK]),
    ("subprocess", "check_output", ["touch", MARK]),
    ("importlib", "import_module", "antigravity"),
    ("runpy", "run_path", MARK),
    ("ctypes", "CDLL", MARK),
    ("socket", "create_connection", ("127.0.0.1", 9), 0.1),
    ("urllib.request", "urlopen", "http://127.0.0.1:9/"),
    ("shutil", "rmtree", MARK),
    ("pathlib", "Path", MARK),
    ("pickle", "loads", called("os", "mkdir", MARK)),
    ("marshal", "loads", b"c"),
    ("types", "CodeType"),
    ("code", "InteractiveInterpreter"),
    ("timeit", "timeit", SCRIPT),
    ("cProfile", "run", SCRIPT),
    ("pdb", "run", SCRIPT),
    ("operator", "attrgetter", "x"),
    ("functools", "partial", print),
    ("webbrowser", "open", "http://127.0.0.1:9/"),
    ("torch", "load", MARK),
    ("torch.hub", "load", MARK, "x"),
    ("torch.storage", "_load_from_bytes", called("os", "mkdir", MARK)),
    ("torch._utils", "_rebuild_sparse_tensor", "x"),
    ("torch._utils", "_import_dotted_name", "os.system"),
    ("torch.serialization", "load", MARK),
    ("torch._inductor.codecache", "compile_file", MARK),
    ("numpy.core.multiarray", "_reconstruct", "x"),
    ("numpy.testing._private.utils", "runstring", SCRIPT, {}),
    ("collections", "OrderedDict.fromkeys", "x"),
    ("loratory.models.pth_child", "told", MARK),
    ("__main__", "told", MARK),
)

FORMS: tuple[tuple[str, Wrap], ...] = (
    ("the first pickle of a file", bare),
    ("an archive", archive),
    ("a file of the old form", old),
    ("an entry of a state dict, in an archive", lambda content: archive(state(entry=content[2:-1]))),
)


def written(content: bytes | Callable[[], bytes], name: str = "given.pth") -> Make:
    """A file of these bytes, the marks in its pickle put right."""

    def make(bench: Bench) -> Any:
        made = content if isinstance(content, bytes) else content()
        path = bench.place / name
        path.write_bytes(made)
        return path

    return make


def calling(call: tuple[Any, ...], wrap: Wrap) -> Make:
    def told(part: Any, mark: str) -> Any:
        if isinstance(part, str):
            return part.replace(MARK, mark)
        return [told(one, mark) for one in part] if isinstance(part, list) else part

    def make(bench: Bench) -> Any:
        module, name, *arguments = call
        content = wrap(called(module, name, *(told(one, str(bench.mark)) for one in arguments)))
        return written(content)(bench)

    return make


def opcodes() -> Mapping[str, bytes]:
    """Ways to call other than REDUCE."""
    touched = value("touch it-ran")
    return {
        "INST": b"(" + touched + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + touched + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + touched + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + touched + b"\x85}\x92.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + touched + b"\x85R.",
        "a call within the arguments of a call": b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
        + value(("os",)) + b"R" + value("system") + b"tR" + touched + b"\x85R.",
        "a name with dots": b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__init__.x\x93.",
        "torch's own name with dots": b"\x80\x04\x8c\x05torch\x8c\x0bhub.load_it\x93.",
    }  # fmt: skip


def laughs(depth: int) -> bytes:
    """A tuple of two of a tuple of two …: short, and without end to whoever goes through it."""
    return b")" + b"".join(b"2\x86" for _ in range(depth))


BUILT = b"N}" + value("size") + value(0) + b"s" + value("elements") + value(1 << 40) + b"s\x86b"
"""Sets a storage's own sizes: nothing an element, and very many of them."""

NAMED = b"N}" + value("dtype") + value("__version__") + b"s\x86b"

CLAIMS: tuple[tuple[str, bytes, tuple[int, ...]], ...] = (
    ("a storage larger than the file", archive(state(entry=tensor(shape=(1 << 40,), elements=1 << 40))), DAMAGED),
    ("a storage larger than the file, of the old form",
     old(state(entry=tensor(shape=(1 << 40,), elements=1 << 40)), claimed=1 << 40), DAMAGED),
    ("a storage of a size below zero", archive(state(entry=tensor(elements=-4))), DAMAGED),
    ("a storage whose size is a text", archive(state(entry=tensor(elements="4"))), DAMAGED),
    ("a view with strides of 0", archive(state(entry=tensor(shape=(1 << 30,), strides=(0,)))), RUNS),
    ("a small view with strides of 0", archive(state(entry=tensor(shape=(2, 2), strides=(0, 1)))), RUNS),
    ("a view with strides below zero", archive(state(entry=tensor(strides=(-1,)))), DAMAGED),
    ("a view that begins behind its storage", archive(state(entry=tensor(offset=4))), DAMAGED),
    ("a view that begins before its storage", archive(state(entry=tensor(offset=-4))), DAMAGED),
    ("a view that is longer than its storage", archive(state(entry=tensor(shape=(8,)))), DAMAGED),
    ("a view with far strides", archive(state(entry=tensor(shape=(2,), strides=(1 << 50,)))), DAMAGED),
    ("a view of nothing, with vast sides",
     archive(state(entry=tensor(shape=(1 << 52, 1 << 52, 0), strides=(1, 1, 1)))), DAMAGED),
    ("a shape of nine sides", archive(state(entry=tensor(shape=(1,) * 9, strides=(1,) * 9))), DAMAGED),
    ("a shape that is a text", archive(state(entry=tensor(shape="4"))), DAMAGED),
    ("a shape with a truth value", archive(state(entry=tensor(shape=(True,)))), DAMAGED),
    ("a shape and strides that differ in number", archive(state(entry=tensor(strides=(1, 1)))), DAMAGED),
    ("a storage that is a text", archive(state(value("0"))), DAMAGED),
    ("a storage of quantised numbers", archive(state(entry=tensor(kind="QInt8Storage"))), RUNS),
    ("a storage that its pickle makes vast", archive(state(entry=tensor(shape=(1 << 39,), built=BUILT))), DAMAGED),
    ("a storage that its pickle gives another type", archive(state(entry=tensor(built=NAMED))), DAMAGED),
    ("a tensor a thousand times", archive(b"\x80\x02}(" + b"".join(
        value(f"t{n}") + tensor() for n in range(1000)) + b"u."), RUNS),
    ("keys of the old form that are not its storages'", old(state(), keys=["0", "1"]), DAMAGED),
    ("a list in place of a state dict", archive(pickle.dumps([1, 2], 2)), RUNS),
    ("a text in place of a tensor", archive(pickle.dumps({"weight": "x"}, 2)), RUNS),
    ("a number in place of a name", archive(b"\x80\x02}" + value(7) + tensor() + b"s."), RUNS),
    ("an empty state dict", archive(pickle.dumps({}, 2)), RUNS),
    ("a name of a megabyte", archive(b"\x80\x02}" + value("x" * (1 << 20)) + tensor() + b"s."), RUNS),
    ("a name that is half a character", archive(b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80" + tensor() + b"s."), DAMAGED),
    ("pickle's protocol 9", archive(b"\x80\x09}."), DAMAGED),
    ("pickle's protocol 0", archive(b"(dp0\n."), RUNS),
    ("an archive that is compressed", archive(state(), compressed=True), RUNS),
    ("an archive with two pickles", archive(state(), more=1), DAMAGED),
    ("an archive without a pickle", archive(state())[:60], DAMAGED),
    ("an empty file", b"", DAMAGED),
    ("a pickle that ends too soon", archive(state()[:-4]), DAMAGED),
    ("a registered extension", archive(b"\x80\x02\x82\x01."), DAMAGED),
    ("a stack that is empty", archive(b"\x80\x02R."), DAMAGED),
    ("a text that claims 2⁶² bytes", archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x."), DAMAGED),
)  # fmt: skip

BOMBS: tuple[tuple[str, bytes], ...] = (
    ("a number of 2³⁰ bytes in 5", b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x."),
    ("bytes that claim 2³⁶", b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x."),
    ("a memo with 2³¹ places", b"\x80\x02}r" + struct.pack("<I", (1 << 31) - 1) + b"."),
    ("an entry with nesting of 200,000", b"\x80\x02}" + b")" + b"\x85" * 200_000 + tensor() + b"s."),
    ("a name that takes for ever to hash", b"\x80\x02}" + laughs(60) + tensor() + b"s."),
)

CASES = [
    *(
        Case(f"{'.'.join(call[:2])} in {form}", calling(call, wrap), PTH, confined=number == 0 and wrap is archive)
        for number, call in enumerate(CALLS)
        for form, wrap in (FORMS if number in (0, 9, 17) else (FORMS[number % len(FORMS)],))
    ),
    *(Case(f"a call by {how}", written(archive(content)), PTH, RUNS, confined=False)
      for how, content in opcodes().items()),
    *(Case(what, written(content), PTH, codes, confined=False) for what, content, codes in CLAIMS),
    *(Case(what, written(archive(content)), PTH, DAMAGED) for what, content in BOMBS),
]  # fmt: skip
