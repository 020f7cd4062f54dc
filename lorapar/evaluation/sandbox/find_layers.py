"""Finding out what this machine allows: each layer is tried in a child that is then gone."""

from __future__ import annotations

import os
import socket
import stat
import sysconfig
from collections.abc import Callable
from pathlib import Path

from lorapar.evaluation.sandbox import landlock, syscalls
from lorapar.evaluation.sandbox.confine import Layers, change_user, interpreter, own_namespaces, prctl

_NO_NEW_PRIVS = 38
_FIRST_USER, _USERS = 40_000, 20_000
"""User ids for generated code: unused by distributions, and within the 65,536 that most containers map."""


def find_layers() -> Layers:
    """The layers that can be taken here."""
    user = _FIRST_USER + os.getpid() % _USERS
    return Layers(
        landlock=landlock.version() if _works(_with_landlock) else 0,
        seccomp=syscalls.available() and _works(_with_seccomp),
        namespaces=_works(own_namespaces),
        run_as=user
        if os.geteuid() == 0 and _everyone_can_start_python() and _works(lambda: change_user(user))
        else None,
    )


def _works(step: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            prctl(_NO_NEW_PRIVS, 1) if step is not own_namespaces else None
            step()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _with_landlock() -> None:
    landlock.restrict([(Path("/dev/null"), landlock.READ_FILE)])
    try:
        os.listdir("/")
    except PermissionError:
        return
    raise OSError("Landlock restricts nothing")


def _with_seccomp() -> None:
    syscalls.restrict()
    try:
        socket.socket().close()
    except PermissionError:
        return
    raise OSError("seccomp restricts nothing")


def _everyone_can_start_python() -> bool:
    """Whether another user id reaches the interpreter and its library: not where they are in a home of mode 0700."""
    for path in (interpreter(), Path(sysconfig.get_path("stdlib"))):
        for place in (path, *path.parents):
            if not place.stat().st_mode & stat.S_IXOTH:
                return False
    return True
