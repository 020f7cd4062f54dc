"""Landlock: the files this process may touch from now on, and whom it may signal. Needs no privilege.

Three system calls, made directly: the one library on PyPI that wraps them and is in wide use (`landlock`, a development
release) knows neither scopes nor network rules. Constants are those of `include/uapi/linux/landlock.h`; the calls have
the same numbers on every architecture.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
TRUNCATE = 1 << 14
_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
_FILESYSTEM_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many access rights on files a version of the interface knows; from 5 on 16."""
_NETWORK_SINCE, _TCP = 4, 0b11
_SCOPES_SINCE, _SOCKETS_AND_SIGNALS = 6, 0b11

READ = READ_FILE | READ_DIR
SCRATCH = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Version of the kernel's Landlock interface; 0 where there is none, or it is switched off or filtered."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def restrict(allowed: Iterable[tuple[Path, int]]) -> None:
    """Allow these rights beneath these paths and nothing else on files; no TCP; no signal to a process outside.

    Paths that do not exist are passed over. Rights that the kernel does not know are left out. Needs no_new_privs.
    Raises OSError where the kernel refuses.
    """
    known = version()
    handled = (1 << _FILESYSTEM_BITS.get(known, 16)) - 1
    ruleset = _Ruleset(
        handled, _TCP if known >= _NETWORK_SINCE else 0, _SOCKETS_AND_SIGNALS if known >= _SCOPES_SINCE else 0
    )
    size = 8 if known < _NETWORK_SINCE else 16 if known < _SCOPES_SINCE else 24
    descriptor = _checked(_libc().syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
    try:
        for path, rights in allowed:
            _allow(descriptor, path, rights & handled)
        _checked(_libc().syscall(_RESTRICT_SELF, descriptor, 0))
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rule = _PathBeneath(rights if path.is_dir() else rights & _FILE_ONLY, place)
        _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(place)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
