"""What a GGUF file's header tells, before llama.cpp is asked to load it.

The library says of a file that it can't load little more than that, and some of what it does not
expect ends the process. Reading the header first gives one line that a person can act on. Source:
the GGUF specification (ggml/docs/gguf.md), versions 2 and 3.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST = 1 << 24  # more entries than any model has: the counts are not counts
_ARRAY = 9
_STRING = 8
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
# How many weights a block of each type has, and how many bytes (ggml.h); others are not checked.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}


class NotAModel(ValueError):
    """The file can't be a model that llama.cpp loads; one line that says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is told of a model: `size` in bytes, the rest as its metadata names it."""

    size: int
    architecture: str
    name: str
    context_length: int
    layers: int
    cache_width: int  # numbers that one token takes in one layer's cache

    def cache_bytes(self, tokens: int) -> int:
        """The memory of a cache for so many tokens, in 16-bit floats."""
        return self.layers * self.cache_width * tokens * 2


def read_header(path: Path) -> Header:
    """Read and check a model's header. Raises NotAModel, or OSError where it can't be read."""
    if path.is_dir():
        raise NotAModel("it is a directory, not a GGUF file")
    size = path.stat().st_size
    if size == 0:
        raise NotAModel("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise NotAModel("it is not a GGUF file")
        try:
            return _Reader(data).header(size)
        except (struct.error, IndexError):
            raise NotAModel("the file is cut off: its header is incomplete") from None
        except (UnicodeDecodeError, OverflowError):
            raise NotAModel("its header is damaged") from None


class _Reader:
    """Walks through a header; what it does not need it steps over."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def header(self, size: int) -> Header:
        version = self._number("<I")
        if version not in _VERSIONS:
            raise NotAModel(f"its GGUF version is {version}, and llama.cpp reads 2 and 3")
        tensors, entries = self._count("<Q"), self._count("<Q")
        if tensors == 0:
            raise NotAModel("it has no weights: only a vocabulary, or another model's part")
        known = dict(self._entry() for _ in range(entries))
        end = max(self._tensor() for _ in range(tensors))
        alignment = int(known.get("general.alignment", 32)) or 32
        begin = -(-self._at // alignment) * alignment
        if begin + end > size:
            raise NotAModel(f"the file is cut off: {size} bytes of {begin + end}")
        return _to_header(size, known)

    def _entry(self) -> tuple[str, Any]:
        return self._text(), self._value(self._number("<I"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_format(kind))
        kind, count = self._number("<I"), self._count("<Q")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self._number("<Q"))
        elif kind == _ARRAY:
            for _ in range(count):
                self._value(_ARRAY)
        else:
            width = struct.calcsize(_format(kind))
            if count == 0 or width * count > 4096:
                self._skip(width * count)
                return None
            return [self._number(_format(kind)) for _ in range(count)]
        return None

    def _tensor(self) -> int:
        """Step over a tensor's description; return where its data ends, as far as that is known."""
        self._text()
        rank = self._number("<I")
        if rank > 8:
            raise NotAModel("its header is damaged")
        weights = prod(self._number("<Q") for _ in range(rank))
        per_block, bytes_per_block = _BLOCKS.get(self._number("<I"), (1, 0))
        offset = self._number("<Q")
        return int(offset + weights // per_block * bytes_per_block)

    def _text(self) -> str:
        length = self._number("<Q")
        begin = self._at
        self._skip(length)
        return self._data[begin : begin + length].decode()

    def _count(self, form: str) -> int:
        count = self._number(form)
        if count > _MOST:
            raise NotAModel("its header is damaged")
        return int(count)

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise IndexError


def _format(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise NotAModel("its header is damaged") from None


def _to_header(size: int, known: dict[str, Any]) -> Header:
    architecture = known.get("general.architecture")
    if not isinstance(architecture, str):
        raise NotAModel("it does not say which architecture it has")

    def number(name: str, otherwise: int) -> int:
        value = known.get(f"{architecture}.{name}", otherwise)
        if isinstance(value, list):  # one for each layer
            value = max(value)
        return value if isinstance(value, int) else otherwise

    heads = number("attention.head_count", 1) or 1
    width = number("embedding_length", 0) // heads
    keys = number("attention.key_length", width) + number("attention.value_length", width)
    return Header(
        size=size,
        architecture=architecture,
        name=str(known.get("general.name") or ""),
        context_length=number("context_length", 0),
        layers=number("block_count", 0),
        cache_width=number("attention.head_count_kv", heads) * keys,
    )
