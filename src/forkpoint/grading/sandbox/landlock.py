"""Landlock (Linux 5.13): no file is changed outside one directory. It needs no privileges.

Invariant: it restricts opening for writing, creating, removing and renaming, for this process and its
threads, for good. It does not restrict reading, nor changing the mode, the times or (before Linux 6.2)
the length of a file by its path.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))  # remove and make files of all kinds
_REFER, _TRUNCATE = 1 << 13, 1 << 14


def restrict(libc: Any, home: str) -> None:
    """Let this process change files below `home` only; /dev/null stays writable. Raises OSError."""
    version = _call(libc, _CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    changes = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = struct.pack("Q", changes)
    ruleset = _call(libc, _CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    for path, rights in ((home, changes), (os.devnull, _WRITE_FILE)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _call(libc, _ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    _call(libc, _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _call(libc: Any, number: int, *args: Any) -> int:
    result: int = libc.syscall(number, *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
