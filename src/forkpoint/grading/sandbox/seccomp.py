"""A filter of system calls (Linux on x86_64 and aarch64) that needs no privileges.

It refuses new processes, other programs, sockets other than pairs, signals to other processes, named pipes,
shared memory and queues that outlive a process, changes of owners, priorities, mounts and namespaces, and
io_uring, which would go around it. Threads are allowed. A refused call fails with EPERM.
Invariant: the filter cannot be removed; threads started later have it, too. It does not see paths, so it
does not restrict which files are opened (see `landlock` and `mounts`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Any

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The kernel's number of each architecture, and its column in the tables below."""

REFUSED = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "open_by_handle_at": (304, 265),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "fanotify_init": (300, 262),
}
"""Calls that are refused whatever their arguments are: their numbers on x86_64 and aarch64."""

_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKETPAIR, _SENDTO, _PRCTL, _PRLIMIT = (53, 199), (44, 206), (157, 167), (302, 261)
_KILL, _TGKILL = (62, 129), (234, 131)

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 1, 22, 2, 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2

Instruction = tuple[int, int, int, int]
"""Operation, the instructions to skip if its condition is true and if it is false, and its operand."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def is_supported() -> bool:
    """Whether there is a filter for this machine; the kernel may still refuse it."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and os.uname().machine in MACHINES


def install(libc: Any) -> None:
    """Filter the system calls of this process. Raises OSError if the kernel refuses."""
    instructions = assemble(os.uname().machine, os.getpid())
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Filter(len(instructions), ctypes.addressof(buffer))
    _check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def assemble(machine: str, pid: int) -> list[Instruction]:
    """Return the filter for `machine`; signals may be sent to the process `pid` only."""
    architecture, column = MACHINES[machine]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [(_JUMP_EQUAL, 0, 1, number), refuse]
    # glibc falls back to clone, whose flags are not behind a pointer
    code += [(_JUMP_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _if_call(_CLONE[column], [_argument(0), (_JUMP_BITS, 1, 0, _CLONE_THREAD), refuse])
    code += _if_call(_SOCKETPAIR[column], [_argument(0), (_JUMP_EQUAL, 1, 0, _AF_UNIX), refuse])
    address = [_argument(4), (_JUMP_EQUAL, 0, 2, 0), _argument(4, 4), (_JUMP_EQUAL, 1, 0, 0), refuse]
    code += _if_call(_SENDTO[column], address)
    code += _if_call(_PRCTL[column], [_argument(0), (_JUMP_EQUAL, 0, 1, _PR_SET_PDEATHSIG), refuse])
    code += _if_call(_PRLIMIT[column], [_argument(0), (_JUMP_EQUAL, 1, 0, 0), refuse])
    for call in (_KILL, _TGKILL):
        code += _if_call(call[column], [_argument(0), (_JUMP_EQUAL, 1, 0, pid), refuse])
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _if_call(number: int, body: list[Instruction]) -> list[Instruction]:
    """Return `body` for the call `number`; it is allowed unless the body refuses it."""
    return [(_JUMP_EQUAL, 0, len(body) + 1, number), *body, (_RETURN, 0, 0, _ALLOW)]


def _argument(idx: int, offset: int = 0) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * idx + offset)


def give_up_privileges(libc: Any, *, keep_reading: bool) -> None:
    """Drop root's capabilities and forbid to gain any. Raises OSError.

    With `keep_reading`, root keeps the one to read all files, which its standard library may be among.
    """
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    _check(libc.capget(header, held), "capget")
    effective, permitted = struct.unpack("III", held.raw[:12])[:2]
    kept = _CAP_DAC_READ_SEARCH if keep_reading else 0
    wanted = struct.pack("IIIIII", effective & kept, permitted & kept, 0, 0, 0, 0)
    _check(libc.capset(header, wanted), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
