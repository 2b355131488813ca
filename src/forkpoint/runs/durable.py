"""Files that survive a killed writer: replaced as a whole, or appended to line by line.

Invariant: whenever the process or the machine stops, a replaced file holds either all of the old text or all
of the new one, and a line file holds whole lines followed by at most one torn line, which the next opening
cuts off.
This file does not know what the lines mean, and does not keep two writers apart (see `lock.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from forkpoint.errors import RunError

SYNC_INTERVAL_S = 1.0
"""Seconds between two syncs: a power cut loses at most the lines of this time, a killed process loses
none."""
BLOCK_BYTES = 1 << 16


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write `path` whole or not at all, piece by piece.

    RunError if the disk refuses; the old file is then still there.
    """
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RunError(
            f"{path} could not be written ({error}); make room, then run the same command again"
        ) from error


def draft_of(path: Path) -> Path:
    """Return the path at which `replace_file` prepares the new text.

    Only a killed writer leaves this file behind.
    """
    return path.with_name(path.name + ".tmp")


class LineFile:
    """A file open for appending whole lines."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`; a torn last line is cut off."""
        self.path = path
        is_new = not path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.num_bytes = _end_of_last_line(self._fd)
        os.ftruncate(self._fd, self.num_bytes)
        if is_new:
            sync_directory(path.parent)
        self._synced_at_s = time.monotonic()
        self._is_synced = True

    def append(self, data: bytes) -> None:
        """Append `data`, which must be whole lines: all of it or, with a RunError, nothing."""
        assert data.endswith(b"\n"), f"{self.path.name} takes whole lines only"
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            if rest:
                os.ftruncate(self._fd, self.num_bytes)
        self.num_bytes += len(data)
        self._is_synced = False
        if time.monotonic() - self._synced_at_s >= SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Make every line appended so far survive a power cut."""
        if self._is_synced:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._refusal(error) from error
        self._is_synced = True
        self._synced_at_s = time.monotonic()

    def close(self) -> None:
        """Sync and close; closing twice is fine."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _refusal(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path} could not be written ({error}); every line before is kept: "
            "make room, then run the same command again"
        )


def _end_of_last_line(fd: int) -> int:
    """Return the offset after the last newline; 0 if the file has none."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        newline_idx = os.pread(fd, end - start, start).rfind(b"\n")
        if newline_idx >= 0:
            return start + newline_idx + 1
        end = start
    return 0
