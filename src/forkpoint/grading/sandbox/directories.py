"""Directories of programs on disk, for the levels of protection that have no private file system.

A directory is locked (`flock`) from its creation to its removal. One that is not locked was left behind: the
process that asked and the outer process of the sandbox were both killed. `sweep` removes those.
Invariant: a directory that is in use is never swept, whatever runs at the same time. A file system without
locks has no sweeping.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "forkpoint-code-"


@contextlib.contextmanager
def own_directory() -> Iterator[Path]:
    """Make a locked directory, and remove it with all it contains at the end. Raises OSError."""
    directory, lock = _make_locked()
    try:
        yield directory
    finally:
        remove(directory)
        os.close(lock)


def sweep() -> list[Path]:
    """Remove the directories of this user that were left behind, and return them."""
    swept = []
    with contextlib.suppress(OSError):
        for directory in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
            lock = _try_lock(directory)
            if lock is not None:
                remove(directory)
                os.close(lock)
                swept.append(directory)
    return swept


def remove(directory: str | Path) -> None:
    """Remove a directory, even if the program took away the right to do so."""
    _allow(str(directory))
    for path, names, _ in os.walk(directory):
        for name in names:
            _allow(os.path.join(path, name))  # noqa: PTH118 the names may be any bytes
    shutil.rmtree(directory, ignore_errors=True)


def _allow(directory: str) -> None:
    """Give this user all rights to a directory before it is read; links lead elsewhere and stay."""
    with contextlib.suppress(OSError):
        if not os.path.islink(directory):  # noqa: PTH114
            os.chmod(directory, 0o700)  # noqa: PTH101


def _make_locked() -> tuple[Path, int]:
    """Make a directory and lock it; if another process sweeps it in between, make another one."""
    import fcntl

    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # the file system has no locks: nothing there is swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if directory.is_dir():
                return directory, lock
            os.close(lock)


def _try_lock(directory: Path) -> int | None:
    """Return a lock on a directory of this user that nobody uses, or None."""
    import fcntl

    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
    except OSError:  # it is in use
        pass
    os.close(lock)
    return None
