"""Read the header of a GGUF file: its metadata and the table of its tensors.

Layout, as the specification of GGUF says (versions 2 and 3, little endian): the magic `GGUF`, the version,
the numbers of tensors and of metadata entries, the entries, the tensors' names, dimensions, types and
offsets, then, aligned, their data.
Invariant: a file that is damaged or cut off in its header is refused; nothing of the data is read. Arrays
(the vocabulary among them) are skipped.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of metadata values that are numbers, with their codes for `struct`."""
STRING, ARRAY = 8, 9
ALIGNMENT = 32
"""The alignment of the data if the metadata names no other one."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """An entry of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    """Dimensions, the one that changes fastest first."""
    type_id: int
    offset: int
    """The first byte of its data, counted from the beginning of all data."""

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]
    """Numbers and strings by key; of an array, its length."""
    tensors: tuple[GGUFTensor, ...]
    data_start: int
    """The first byte of the data in the file."""

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_weights for tensor in self.tensors)

    @classmethod
    def read(cls, path: Path) -> GGUFHeader:
        """Read the header of a file. ValueError if it is no GGUF file, or one that is damaged or cut off."""
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path} is no GGUF file: it does not begin with the letters GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    return _Cursor(data, len(MAGIC)).header(path)
                except (struct.error, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
                    raise ValueError(
                        f"{path} is damaged or cut off in its header ({error}); copy it again"
                    ) from None


class _Cursor:
    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data, self._position = data, position

    def header(self, path: Path) -> GGUFHeader:
        version, num_tensors, num_entries = self._numbers("IQQ")
        if version not in VERSIONS:
            raise ValueError(
                f"{path} is a GGUF file of version {version}; versions {' and '.join(map(str, VERSIONS))} "
                "are read"
            )
        metadata = {}
        for _ in range(num_entries):
            key = self._string()
            metadata[key] = self._value(self._numbers("I")[0])
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        alignment = metadata.get("general.alignment", ALIGNMENT)
        return GGUFHeader(metadata, tensors, -(-self._position // alignment) * alignment)

    def _numbers(self, codes: str) -> tuple[Any, ...]:
        numbers = struct.unpack_from(f"<{codes}", self._data, self._position)
        self._position += struct.calcsize(f"<{codes}")
        return numbers

    def _string(self) -> str:
        return self._bytes().decode()

    def _bytes(self) -> bytes:
        (length,) = self._numbers("Q")
        text = self._data[self._position : self._position + length]
        if len(text) < length:
            raise IndexError(f"a string of {length} bytes does not fit into the file")
        self._position += length
        return text

    def _value(self, type_id: int) -> Any:
        if type_id in NUMBERS:
            return self._numbers(NUMBERS[type_id])[0]
        if type_id == STRING:
            return self._string()
        if type_id != ARRAY:
            raise IndexError(f"a metadata value has the unknown type {type_id}")
        element_type, length = self._numbers("IQ")
        if element_type in NUMBERS:
            self._position += length * struct.calcsize(f"<{NUMBERS[element_type]}")
        else:
            for _ in range(length):
                if element_type == STRING:
                    self._bytes()
                else:
                    self._value(element_type)
        return length

    def _tensor(self) -> GGUFTensor:
        name = self._string()
        (num_dimensions,) = self._numbers("I")
        shape = self._numbers("Q" * num_dimensions)
        type_id, offset = self._numbers("IQ")
        return GGUFTensor(name, shape, type_id, offset)
