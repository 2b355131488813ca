"""The append-only file of a run's rows, one sealed JSON line per finished item.

A line is `{"key": <item>, ..., "sum": <seal>}`, where the seal is 8 bytes of BLAKE2b over every byte of the
line before it. Opening the file for writing repairs it, and the items of damaged lines are owed again: a torn
last line is cut off; complete lines whose seal does not fit are moved to `journal.bad` beside the journal,
counted and warned about. A reader must not write: it ignores a torn last line, and raises JournalCorrupt for
any other damage.

Invariant: there is one line per key, the first one written, and a written line is never changed. Lines keep
their order, unless `arrange` replaces the file by one with the same lines in another order, whole or not at
all.
Keys are kept in memory, rows are not. This file does not keep two writers apart, and the seal protects
against accidents only.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from forkpoint.errors import JournalCorrupt, RunError
from forkpoint.runs.durable import LineFile, replace_file

KEY_PATTERN = re.compile(r"[0-9A-Za-z_.:/-]+")
LINE_KEY_PATTERN = re.compile(rb'\{"key":"([0-9A-Za-z_.:/-]+)"')
RESERVED = ("key", "sum")
SEAL_BYTES = 8
SEAL_START = b',"sum":"'
SEAL_END = b'"}\n'
TAIL_BYTES = len(SEAL_START) + 2 * SEAL_BYTES + len(SEAL_END)


class Journal:
    """The rows of a run by key, in the order in which they were written."""

    num_set_aside: int
    """Number of lines that this opening moved to `journal.bad`."""

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        """Open `path` and check every line; a missing file counts as empty.

        Cost: one pass over the file. Warns if lines were set aside; JournalCorrupt if a reader finds a
        damaged line.
        """
        self.path = path
        self._file = LineFile(path) if is_writable else None
        self._offsets: dict[str, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)
        bad_lines = self._scan()
        self.num_set_aside = len(bad_lines)
        if bad_lines:
            self._set_aside(bad_lines)

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, key: object) -> bool:
        return key in self._offsets

    @property
    def digest(self) -> str:
        """16 bytes of BLAKE2b over all bytes of the journal, as hex (`b2sum -l 128` gives the same)."""
        return self._hash.hexdigest()

    def append(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Write the (key, row) pairs with new keys in one go; returns how many there were.

        ValueError or TypeError for a row that is not JSON, RunError if the disk refuses the write; nothing is
        written then.
        """
        if self._file is None:
            raise RunError(f"{self.path} was opened for reading; open the run with Run.open to add rows")
        lines: dict[str, bytes] = {}
        for key, row in rows:
            if key not in self._offsets and key not in lines:
                lines[key] = _to_line(key, row)
        if not lines:
            return 0
        offset = self._file.num_bytes
        data = b"".join(lines.values())
        self._file.append(data)
        self._hash.update(data)
        for key, line in lines.items():
            self._offsets[key] = offset
            offset += len(line)
        return len(lines)

    def items(self, keys: Iterable[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (key, row) pairs: of `keys` in their order, or all in the order of writing.

        KeyError for a key without a row.
        """
        wanted = list(self._offsets) if keys is None else keys
        if not self._offsets and keys is None:
            return
        with self.path.open("rb") as file:
            for key in wanted:
                file.seek(self._offsets[key])
                yield key, self._to_row(key, file.readline())

    def place(self, key: str) -> int | None:
        """Where the row of `key` lies, if it has one; a place names a row until `arrange`."""
        return self._offsets.get(key)

    def arrange(self, places: Sequence[int]) -> None:
        """Put the rows at `places` into this order; other rows stay between the same neighbours.

        A place that comes twice counts once. Cost: nothing if the order is this one, else the file is written
        anew.
        """
        wanted = list(dict.fromkeys(places))
        if all(place < later for place, later in pairwise(wanted)):
            return
        moved = dict(zip(sorted(wanted), wanted, strict=True))
        with self.path.open("rb") as file:

            def lines() -> Iterator[bytes]:
                for offset in self._offsets.values():
                    file.seek(moved.get(offset, offset))
                    yield file.readline()

            replace_file(self.path, lines())
        self._open_again()

    def _open_again(self) -> None:
        """Read a file that was replaced."""
        self.close()
        self._file = LineFile(self.path)
        self._offsets, self._hash = {}, hashlib.blake2b(digest_size=16)
        self._scan()

    def sync(self) -> None:
        """Make every row survive a power cut."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is fine."""
        if self._file is not None:
            self._file.close()

    def _scan(self) -> list[bytes]:
        """Index the journal's whole lines; returns the damaged ones."""
        bad_lines: list[bytes] = []
        if not self.path.exists():
            return bad_lines
        offset = 0
        with self.path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                key = _key_of(line)
                if key is not None:
                    self._offsets.setdefault(key, offset)
                elif self._file is None:
                    raise JournalCorrupt(
                        f"line {line_number} of {self.path} is damaged; "
                        "run the command that wrote it again to redo that item"
                    )
                else:
                    bad_lines.append(line)
                self._hash.update(line)
                offset += len(line)
        return bad_lines

    def _set_aside(self, bad_lines: Sequence[bytes]) -> None:
        """Move `bad_lines` out of the journal.

        A stop in between leaves them in both files, so that they are found again.
        """
        bad_path = self.path.with_suffix(".bad")
        bad_file = LineFile(bad_path)
        try:
            bad_file.append(b"".join(bad_lines))
        finally:
            bad_file.close()
        with self.path.open("rb") as file:
            replace_file(self.path, (line for line in file if _key_of(line) is not None))
        self._open_again()
        warnings.warn(
            f"{len(bad_lines)} damaged lines of {self.path} were moved to {bad_path.name}; "
            "their items are owed again",
            RuntimeWarning,
            stacklevel=2,
        )

    def _to_row(self, key: str, line: bytes) -> dict[str, Any]:
        """Return the row in `line`, as it was given to `append`."""
        if _key_of(line) != key:
            raise JournalCorrupt(
                f"the row of {key} in {self.path} has changed since the run was opened; open it again"
            )
        row: dict[str, Any] = json.loads(line)
        for name in RESERVED:
            del row[name]
        return row


def _to_line(key: str, row: Mapping[str, Any]) -> bytes:
    """Return the sealed line of a row."""
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(
            f"key {key!r} is not a journal key; use content_key, or letters, digits and _ . : / - only"
        )
    taken = [name for name in RESERVED if name in row]
    if taken:
        raise ValueError(
            f"a row has the field {taken[0]!r}, which the journal uses itself; choose another name"
        )
    text = json.dumps({"key": key, **row}, separators=(",", ":"), allow_nan=False)
    body = text[:-1].encode()
    return body + SEAL_START + _seal(body) + SEAL_END


def _key_of(line: bytes) -> str | None:
    """Return the key of a whole line; None if the line is damaged."""
    body, tail = line[:-TAIL_BYTES], line[-TAIL_BYTES:]
    match = LINE_KEY_PATTERN.match(body)
    if match is None or tail != SEAL_START + _seal(body) + SEAL_END:
        return None
    return match[1].decode()


def _seal(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=SEAL_BYTES).hexdigest().encode()
