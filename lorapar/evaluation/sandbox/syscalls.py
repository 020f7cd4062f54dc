"""seccomp: the system calls a Python program that only reckons needs. Everything else fails with EPERM.

A list of what is allowed, so that a call the kernel learns tomorrow (or io_uring, which goes round filters) is not.
"""

from __future__ import annotations

import errno
import os

_FILES = (
    "read write readv writev pread64 pwrite64 preadv pwritev close lseek fstat stat lstat newfstatat statx statfs "
    "fstatfs access faccessat faccessat2 readlink readlinkat getdents getdents64 dup dup2 dup3 fcntl pipe pipe2 poll "
    "ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 chdir fchdir getcwd mkdir mkdirat "
    "rmdir unlink unlinkat rename renameat renameat2 ftruncate fsync fdatasync sendfile copy_file_range umask flock"
)
_MEMORY = "brk mmap munmap mremap mprotect madvise msync mincore membarrier"
_PROCESS = (
    "execve exit exit_group getpid gettid getppid getuid geteuid getgid getegid getgroups getpgrp getpgid getsid "
    "getresuid getresgid set_tid_address set_robust_list get_robust_list rseq futex futex_waitv sched_yield "
    "sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min arch_prctl "
    "getrlimit getrusage sysinfo uname times getcpu getrandom"
)
_TIME = "nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time alarm setitimer getitimer"
_SIGNALS = (
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause "
    "restart_syscall"
)
ALLOWED = " ".join((_FILES, _MEMORY, _PROCESS, _TIME, _SIGNALS)).split()

_ABSENT = ("clone3", "openat2")
"""Answered with ENOSYS, so that the C library falls back to the older call, whose arguments a filter can read."""
_CLONE_THREAD = 0x10000
_ACCESS_MODE = 3
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_HARMLESS_IOCTLS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX: what Python asks of a file it opens."""


def available() -> bool:
    """Whether libseccomp is there; pyseccomp is only a thin layer over it."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return False
    return bool(pyseccomp.system_arch())


def restrict() -> None:
    """Filter this thread's system calls from now on, for good; raises OSError where the kernel refuses."""
    import pyseccomp as sc

    chosen = sc.SyscallFilter(sc.ERRNO(errno.EPERM))
    for name in ALLOWED:
        _rule(chosen, sc.ALLOW, name)
    for name in _ABSENT:
        _rule(chosen, sc.ERRNO(errno.ENOSYS), name)
    # Threads, but no second process.
    _rule(chosen, sc.ALLOW, "clone", sc.Arg(0, sc.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    own = os.getpid()
    for name in ("kill", "tgkill"):
        _rule(chosen, sc.ALLOW, name, sc.Arg(0, sc.EQ, own))
    for option in (_PR_SET_NAME, _PR_GET_NAME):
        _rule(chosen, sc.ALLOW, "prctl", sc.Arg(0, sc.EQ, option))
    for request in _HARMLESS_IOCTLS:
        _rule(chosen, sc.ALLOW, "ioctl", sc.Arg(1, sc.EQ, request))
    # Its own limits may be read, not raised.
    _rule(chosen, sc.ALLOW, "prlimit64", sc.Arg(0, sc.EQ, 0), sc.Arg(2, sc.EQ, 0))
    _allow_opening(chosen, "open", 1)
    _allow_opening(chosen, "openat", 2)
    chosen.load()


def _allow_opening(chosen: object, name: str, flags: int) -> None:
    """All ways of opening but one: truncating a file that is opened for reading, which old Landlock does not see."""
    import pyseccomp as sc

    for mask, value in (
        (os.O_TRUNC, 0),
        (_ACCESS_MODE, os.O_WRONLY),
        (_ACCESS_MODE, os.O_RDWR),
    ):
        _rule(chosen, sc.ALLOW, name, sc.Arg(flags, sc.MASKED_EQ, mask, value))


def _rule(chosen: object, action: int, name: str, *arguments: object) -> None:
    """Add a rule; calls that this architecture does not have are passed over."""
    import pyseccomp as sc

    number = sc.resolve_syscall(sc.Arch.NATIVE, name)
    if number >= 0:
        chosen.add_rule(action, number, *arguments)  # type: ignore[attr-defined]
