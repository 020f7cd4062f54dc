"""What a forked child does to itself before generated code takes its place; nothing of it can be undone afterwards.

Every step is of the standard library (and pyseccomp) and needs no privilege, but for the two that are only taken where
they are allowed: another user id, and namespaces.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lorapar.evaluation.sandbox import landlock, syscalls
from lorapar.evaluation.sandbox.limits import Limits

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_NEW_NAMESPACES = {"network": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
_NEW_USER = 0x10000000
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_READABLE = (*_LIBRARIES, "/etc/localtime", "/usr/share/zoneinfo", "/dev/zero", "/dev/urandom", "/dev/random")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")


@dataclass(frozen=True)
class Layers:
    """Which layers this machine allows; found out once, by trying each in a child."""

    landlock: int
    """Version of the interface, 0 for none."""
    seccomp: bool
    namespaces: bool
    run_as: int | None
    """A user id of its own for generated code; None where ids cannot be changed, or its interpreter not be reached."""

    def words(self) -> list[str]:
        """The layers by name, for the log and the summary."""
        named = {
            "rlimits": True,
            "no_new_privs": True,
            f"landlock {self.landlock}": self.landlock > 0,
            "seccomp": self.seccomp,
            "network, ipc and uts namespaces": self.namespaces,
            "user id of its own": self.run_as is not None,
        }
        return [name for name, there in named.items() if there]


def interpreter() -> Path:
    """The Python that runs generated code: the one below the virtual environment, so that no package comes along."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def confine(limits: Limits, scratch: Path, layers: Layers, processes_now: int) -> None:
    """Take every layer, in the order in which each still allows the next; raises OSError where one is refused."""
    watcher = os.getppid()
    os.umask(0o077)
    set_limits(limits, processes_now if layers.run_as is None else 0)
    if layers.namespaces:
        own_namespaces()
    if layers.run_as is not None:
        change_user(layers.run_as)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Changing the user id forgets the death signal, so it is set here; the watcher may have died before.
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != watcher:
        os._exit(1)
    if layers.landlock:
        landlock.restrict(allowed_files(scratch))
    if layers.seccomp:
        syscalls.restrict()


def set_limits(limits: Limits, processes_now: int) -> None:
    """Resource limits; the number of processes counts all of one user id, so those that run already count too."""
    for kind, most in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes + processes_now),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))


def allowed_files(scratch: Path) -> list[tuple[Path, int]]:
    """What generated code may read (interpreter, standard library, shared libraries, time zones) and write."""
    executable = interpreter()
    library = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return [
        (scratch, landlock.SCRATCH),
        (executable, landlock.READ_FILE | landlock.EXECUTE),
        *((Path(path).resolve(), landlock.READ_FILE | landlock.EXECUTE) for path in _LOADERS),
        *((path, landlock.READ) for path in library),
        (executable.parent.parent / "lib", landlock.READ),
        *((Path(path), landlock.READ) for path in _READABLE),
        (Path("/dev/null"), landlock.READ_FILE | landlock.WRITE_FILE),
    ]


def own_namespaces() -> None:
    """A network without interfaces, and message queues and a host name of its own.

    Without the privilege for it, by way of a user namespace, in which the user id is never 0: an id of 0 would keep
    capabilities there when the program is started.
    """
    wanted = sum(_NEW_NAMESPACES.values())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(wanted) == 0:
        return
    user, group = os.getuid(), os.getgid()
    # The warden may not be looked into, and its children inherit that; the files below would not be theirs to write.
    prctl(_PR_SET_DUMPABLE, 1)
    if libc.unshare(wanted | _NEW_USER):
        number = ctypes.get_errno()
        raise OSError(number, f"namespaces: {os.strerror(number)}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or 65534} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or 65534} {group} 1")


def change_user(user: int) -> None:
    """Another user and group, and no further groups."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def prctl(option: int, value: int) -> None:
    """prctl(2); raises OSError where the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
