"""What a `.pth` file holds, told by a process of its own that knows nothing but Python's standard library.

    python -I -S pth_child.py FILE  ─▶  one JSON object: each tensor's type, place, shape and strides; or why not

Run with a limit on memory and time. Of a pickle's names it knows those that tensors are saved with, each as a stand-in
that computes nothing; any other name ends it. The numbers themselves it leaves in the file.
"""

import collections
import io
import json
import math
import pickle
import struct
import sys
import zipfile
from typing import IO, Any, NamedTuple

Spans = dict[str, tuple[int, int]]
"""Where each storage's bytes begin in the file, and how many they are."""

MAX_PICKLE = 64 << 20
MAX_TENSORS = 50_000
MAX_NAME = 500
MAX_MEMORY = 512 << 20
MAX_SECONDS = 2

SIZES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the files that torch wrote before it wrote archives


class UnsafeError(Exception):
    """It could run code or exhaust the machine."""


class DamagedError(Exception):
    """It is not whole."""


class Storage(NamedTuple):  # which no pickle can change: BUILD sets attributes of what has any
    dtype: str
    size: int
    key: str
    elements: int


class Tensor(NamedTuple):
    storage: Storage
    offset: Any
    shape: Any
    strides: Any


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise DamagedError
    return Tensor(storage, offset, shape, strides)


def rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise DamagedError
    return data


class Reader(pickle.Unpickler):
    """Knows what tensors are saved with, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return rebuild_parameter
        if module in ("torch", "torch.storage") and name in SIZES:
            return name
        raise UnsafeError

    def persistent_load(self, saved: Any) -> Storage:
        if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
            raise DamagedError
        kind, key, elements = saved[1], saved[2], saved[4]
        if kind not in SIZES or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise DamagedError
        if len(saved) == 6 and saved[5] is not None:
            raise UnsafeError  # a view of a storage: none that a state dict is saved with
        return Storage(*SIZES[kind], key, elements)


def described(path: str) -> dict[str, Any]:
    """The tensors of the file at `path`, by name: (dtype, offset in bytes, shape, strides, elements spanned)."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        archive = zipfile.is_zipfile(file)
        file.seek(0)
        state, spans = (_of_archive if archive else _of_old)(file, size)
        return _checked(state, spans)


def _of_archive(file: IO[bytes], size: int) -> tuple[Any, Spans]:
    """torch never compresses what it writes; what is compressed could unpack to more than memory holds."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
            raise UnsafeError("unpacks to more bytes than the file holds")
        inner = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(inner) != 1 or inner[0].file_size > MAX_PICKLE:
            raise DamagedError
        root = inner[0].filename.removesuffix("data.pkl")
        state = Reader(io.BytesIO(archive.read(inner[0]))).load()
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise DamagedError
    spans: Spans = {}
    for entry in entries:
        if entry.filename.startswith(f"{root}data/"):
            file.seek(entry.header_offset)
            head = file.read(30)
            if head[:4] != b"PK\x03\x04":
                raise DamagedError
            begin = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
            spans[entry.filename.removeprefix(f"{root}data/")] = (begin, entry.file_size)
    _once(spans, size)
    return state, spans


def _of_old(file: IO[bytes], size: int) -> tuple[Any, Spans]:
    """A row of pickles, then each storage: its number of elements, and they."""
    begins = file.read(2)
    if begins[:1] != pickle.PROTO:
        raise DamagedError("" if begins == b"PK" else "not a .pth file of tensors")
    file.seek(0)
    first = Reader(file).load()
    if not (type(first) is int and first == MAGIC):
        raise DamagedError if first == {} else UnsafeError(_kind(first))
    if Reader(file).load() != PROTOCOL or not isinstance(Reader(file).load(), dict):
        raise DamagedError
    kept: dict[str, Storage] = {}

    class Noting(Reader):
        def persistent_load(self, saved: Any) -> Storage:
            storage = super().persistent_load(saved)
            return kept.setdefault(storage.key, storage)

    state = Noting(file).load()
    keys = Reader(file).load()
    if not isinstance(keys, list) or set(keys) != set(kept) or len(keys) != len(kept):
        raise DamagedError
    spans: Spans = {}
    for key in keys:
        (elements,) = struct.unpack("<q", file.read(8))
        if elements != kept[key].elements:
            raise DamagedError
        spans[key] = (file.tell(), elements * kept[key].size)
        file.seek(spans[key][1], io.SEEK_CUR)
    _once(spans, size)
    return state, spans


def _once(spans: Spans, size: int) -> None:
    reached = 0
    for begin, length in sorted(spans.values()):
        if begin < reached or begin + length > size:
            raise DamagedError
        reached = begin + length


def _kind(value: Any) -> str:
    return f"holds a {type(value).__name__}, not tensors by name"


def _checked(state: Any, spans: Spans) -> dict[str, Any]:
    if not isinstance(state, dict) or not state:
        raise UnsafeError(_kind(state))
    if len(state) > MAX_TENSORS:
        raise UnsafeError(f"holds {len(state):,} tensors, above the limit of {MAX_TENSORS:,}")
    found, claimed = {}, 0
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UnsafeError(f"entry {str(name)[:80]!r} is a {type(tensor).__name__}, not a tensor")
        if len(name) > MAX_NAME or not name.isprintable():
            raise UnsafeError(f"entry {name[:80]!a} has a name that no tensor has")
        found[name] = described_tensor(name, tensor, spans)
        claimed += found[name]["bytes"]
    if claimed > sum(length for _, length in spans.values()) * 2:  # tied weights stand there twice
        raise UnsafeError("its tensors claim more bytes than the file holds")
    return found


def described_tensor(name: str, tensor: Tensor, spans: Spans) -> dict[str, Any]:
    """Where a tensor's numbers lie; its view must be of numbers that are there, each of them once."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    whole = [tensor.offset, *_listed(shape), *_listed(strides)]
    if len(shape) != len(strides) or len(shape) > 8 or any(type(n) is not int or not 0 <= n < 2**53 for n in whole):
        raise DamagedError
    elements, reached, room = 1, 0, 1
    for length in shape:
        elements *= length
    if math.prod(max(length, 1) for length in shape) >= 2**63:  # nothing, of sides that torch cannot count
        raise DamagedError
    begin, held = spans.get(storage.key, (0, -1))
    if elements * storage.size > max(held, 0):
        raise (
            UnsafeError("its tensors claim more bytes than the file holds")
            if held >= storage.elements * storage.size
            else DamagedError
        )
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length > 1 and elements and stride < room:
            raise UnsafeError(f"entry {name[:80]!r} shows some of its numbers several times")
        reached += stride * max(length - 1, 0)
        room = max(room, stride * length)
    if elements and tensor.offset + reached + 1 > storage.elements:
        raise DamagedError
    return {
        "dtype": storage.dtype,
        "begin": begin + tensor.offset * storage.size,
        "span": reached + 1 if elements else 0,
        "shape": list(shape),
        "strides": list(strides),
        "bytes": elements * storage.size,
    }


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, tuple | list):
        raise DamagedError
    return list(value)


def told(path: str) -> dict[str, Any]:
    """What :func:`described` gives, or why it gives nothing, as a dictionary."""
    try:
        return {"tensors": described(path)}
    except UnsafeError as error:
        return {"unsafe": str(error) or "holds something other than tensors, which could run code"}
    except (MemoryError, RecursionError):
        return {"unsafe": "takes more memory to read than a file of tensors needs"}
    except DamagedError as error:
        return {"damaged": str(error)}
    except Exception:  # noqa: BLE001  # whatever a damaged file makes the readers do
        return {"damaged": ""}


def _confined() -> None:
    """From here on: little memory, little time, and nothing is opened, run or imported."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # no such limits here: the parent's on time holds


if __name__ == "__main__":
    _confined()
    answer = told(sys.argv[1])
    try:
        text = json.dumps(answer)
    except MemoryError:
        text = json.dumps({"unsafe": "takes more memory to read than a file of tensors needs"})
    sys.stdout.write(text)
