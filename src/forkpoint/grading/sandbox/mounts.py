"""Namespaces of a sandbox, and the file system that a program sees in them (Linux 5.12).

The program sees Python's standard library and the system's libraries, read-only, four devices, and an empty
directory of bounded size in memory. Everything else is not there: no other file, process or network.
Invariant: nothing of this is on disk, and the kernel removes it with the last process of the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Any

HOME = "/program"
"""The only directory that the program can write to; it is a file system of its own."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18
_MNT_DETACH = 2


def enter_namespaces(libc: Any) -> None:
    """Move to a new user namespace, and its children to new namespaces for the rest. Raises OSError.

    Root does without a user namespace if the system allows none.
    """
    uid, gid = os.geteuid(), os.getegid()
    rest = _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    if libc.unshare(_NEWUSER | rest) == 0:
        _write("setgroups", "deny")
        _write("uid_map", f"{uid} {uid} 1")
        _write("gid_map", f"{gid} {gid} 1")
    else:
        _check(libc.unshare(rest), "namespaces")


def _write(name: str, content: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 pathlib loads slowly
        file.write(content)


def enter_private_root(libc: Any, visible: Sequence[str], disk_bytes: int, num_files: int) -> None:
    """Replace the file system by one that has the `visible` paths and the empty directory HOME.

    Raises OSError. HOME holds `disk_bytes` in at most `num_files` files.
    """
    _check(libc.unshare(_NEWNS), "mount namespace")
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    attributes = _ATTR_RDONLY | _ATTR_NOSUID
    trees = [(path, _copy_of(libc, path, attributes | _ATTR_NODEV)) for path in visible]
    trees += [(path, _copy_of(libc, path, attributes)) for path in DEVICES]
    base = b"/proc"  # any directory will do: the new root is mounted there only to change to it
    _check(libc.mount(b"tmpfs", base, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m,mode=755"), "root")
    os.chdir(base)
    for path, tree in trees:
        place = path.lstrip("/")
        _make_place(place, is_directory=os.path.isdir(path))  # noqa: PTH112 a string is wanted
        _syscall(libc, _MOVE_MOUNT, tree, b"", _AT_FDCWD, place.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
    own = HOME.lstrip("/")
    _make_place(own, is_directory=True)
    options = f"size={disk_bytes},nr_inodes={num_files},mode=700".encode()
    _check(libc.mount(b"tmpfs", own.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options), "directory")
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")
    _set_attributes(libc, _AT_FDCWD, b"/", _ATTR_RDONLY, 0)
    os.chdir(HOME)


def _copy_of(libc: Any, path: str, attributes: int) -> int:
    """Return a descriptor of a detached copy of the mounts at `path`, with these attributes."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = _syscall(libc, _OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _set_attributes(libc, tree, b"", attributes, _AT_EMPTY_PATH | _AT_RECURSIVE)
    return tree


def _set_attributes(libc: Any, place: int, path: bytes, attributes: int, flags: int) -> None:
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    _syscall(libc, _MOUNT_SETATTR, place, path, flags, wanted, ctypes.c_size_t(len(wanted)))


def _make_place(path: str, *, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    if not is_directory:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _syscall(libc: Any, number: int, *args: Any) -> int:
    result: int = libc.syscall(number, *args)
    if result < 0:
        _check(result, f"system call {number}")
    return result


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
