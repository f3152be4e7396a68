"""System calls by allowlist: a seccomp filter, assembled here as classic BPF.

Whatever is not listed is refused with EPERM. The architecture is checked first; a call in another
one's numbers (x32, i386) ends the process.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Literal, TypeAlias

from r1pipe.sandbox.system import PR_SET_SECCOMP, libc

Profile: TypeAlias = Literal["python", "native", "compiler"]
"""`python` starts nothing; `native` is one program, which execve starts; `compiler` starts many."""

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH = 0, 4
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020080
"""The flags of clone that make namespaces (NEWTIME, NEWNS, NEWCGROUP to NEWNET)."""
CLONE3 = 435

# name x86_64 aarch64, a dash where a machine has none
_ALWAYS = """
read 0 63;write 1 64;open 2 -;openat 257 56;creat 85 -;close 3 57;stat 4 -;fstat 5 80;lstat 6 -
newfstatat 262 79;statx 332 291;poll 7 -;ppoll 271 73;lseek 8 62;mmap 9 222;mprotect 10 226
munmap 11 215;brk 12 214;mremap 25 216;madvise 28 233;msync 26 227;mincore 27 232
rt_sigaction 13 134;rt_sigprocmask 14 135;rt_sigreturn 15 139;rt_sigsuspend 130 133
rt_sigpending 127 136;rt_sigtimedwait 128 137;sigaltstack 131 132;pause 34 -;alarm 37 -
getitimer 36 102;setitimer 38 103;pread64 17 67;pwrite64 18 68;readv 19 65;writev 20 66
preadv 295 69;pwritev 296 70;preadv2 327 286;pwritev2 328 287;access 21 -;faccessat 269 48
faccessat2 439 439;pipe 22 -;pipe2 293 59;select 23 -;pselect6 270 72;sched_yield 24 124
dup 32 23;dup2 33 -;dup3 292 24;nanosleep 35 101;clock_nanosleep 230 115;clock_gettime 228 113
clock_getres 229 114;gettimeofday 96 169;time 201 -;times 100 153;getpid 39 172;getppid 110 173
gettid 186 178;getuid 102 174;geteuid 107 175;getgid 104 176;getegid 108 177;getgroups 115 158
getresuid 118 148;getresgid 120 150;getpgid 121 155;getpgrp 111 -;getsid 124 156;sendfile 40 71
exit 60 93;exit_group 231 94;wait4 61 260;waitid 247 95;uname 63 160;flock 73 32;fsync 74 82
fdatasync 75 83;ftruncate 77 46;getdents 78 -;getdents64 217 61;getcwd 79 17;chdir 80 49
fchdir 81 50;rename 82 -;renameat 264 38;renameat2 316 276;mkdir 83 -;mkdirat 258 34;rmdir 84 -
unlink 87 -;unlinkat 263 35;readlink 89 -;readlinkat 267 78;umask 95 166;getrusage 98 165
getrlimit 97 163;setrlimit 160 164;sysinfo 99 179;statfs 137 43;fstatfs 138 44;arch_prctl 158 -
futex 202 98;futex_wait 455 455;futex_wake 454 454;futex_waitv 449 449;sched_getaffinity 204 123
sched_getparam 143 121;sched_getscheduler 145 120;sched_get_priority_max 146 125
sched_get_priority_min 147 126;set_tid_address 218 96;set_robust_list 273 99;rseq 334 293
membarrier 324 283;restart_syscall 219 128;getrandom 318 278;epoll_create 213 -
epoll_create1 291 20;epoll_ctl 233 21;epoll_wait 232 -;epoll_pwait 281 22;epoll_pwait2 441 441
eventfd 284 -;eventfd2 290 19;copy_file_range 326 285;getcpu 309 168;close_range 436 436
fadvise64 221 223
"""
_NATIVE = "execve 59 221"
_COMPILER = """
execve 59 221;fork 57 -;vfork 58 -;chmod 90 -;fchmod 91 52;fchmodat 268 53;fchmodat2 452 452
link 86 -;linkat 265 37;symlink 88 -;symlinkat 266 36;utimensat 280 88;kill 62 129
fallocate 285 47;tkill 200 130
"""
_ARGUMENTS = "fcntl 72 25;ioctl 16 29;prctl 157 167;prlimit64 302 261;tgkill 234 131;clone 56 220"

_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
"""Duplicate, flags, locks of files, the size of a pipe: no owner, signal, lease or notification."""
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_PRCTL = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA."""

Instruction: TypeAlias = tuple[int, int, int, int]


def table(text: str, machine: str) -> dict[str, int]:
    """Return the calls of a table above that a machine has, by name."""
    column = list(_AUDIT).index(machine) + 1
    rows = [entry.split() for entry in text.replace("\n", ";").split(";") if entry.strip()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def calls_of(profile: Profile, machine: str) -> dict[str, int]:
    """Return the calls that a profile allows without a look at their arguments."""
    extra = {"python": "", "native": _NATIVE, "compiler": _COMPILER}[profile]
    return table(_ALWAYS + extra, machine)


def assemble(profile: Profile, machine: str, own_pid: int) -> list[Instruction]:
    """Return the filter of a profile, for a process whose number is `own_pid`."""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_GIVE, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32_BIT), (_GIVE, 0, 0, _KILL)]
    for number in calls_of(profile, machine).values():
        code += [(_EQUAL, 0, 1, number), (_GIVE, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, 1, CLONE3), (_GIVE, 0, 0, _ENOSYS)]  # glibc falls back to clone
    numbers = table(_ARGUMENTS, machine)
    code += _one_of(numbers["fcntl"], 1, _FCNTL)
    code += _one_of(numbers["ioctl"], 1, _IOCTL)
    code += _one_of(numbers["prctl"], 0, _PRCTL)
    code += _one_of(numbers["prlimit64"], 0, (0,))  # its own limits, which it can only lower
    code += _one_of(numbers["tgkill"], 0, (own_pid,))  # abort and raise
    code += _clone(numbers["clone"], is_thread_only=profile != "compiler")
    return [*code, (_GIVE, 0, 0, _EPERM)]


def _one_of(number: int, argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow a call if the low half of an argument is one of some values."""
    tests: list[Instruction] = [(_LOAD, 0, 0, 16 + 8 * argument)]
    for value in values:
        tests += [(_EQUAL, 0, 1, value), (_GIVE, 0, 0, _ALLOW)]
    tests += [(_GIVE, 0, 0, _EPERM)]
    return [(_EQUAL, 0, len(tests), number), *tests]


def _clone(number: int, *, is_thread_only: bool) -> list[Instruction]:
    tests: list[Instruction] = [(_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)]
    tests += [(_GIVE, 0, 0, _EPERM)]
    if is_thread_only:
        tests += [(_ANY_BIT, 1, 0, _CLONE_THREAD), (_GIVE, 0, 0, _EPERM)]
    tests += [(_GIVE, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(tests), number), *tests]


def restrict(profile: Profile) -> bool:
    """Filter this process's calls from now on. False where the machine or the kernel cannot."""
    machine = os.uname().machine
    if machine not in _AUDIT:
        return False
    code = assemble(profile, machine, os.getpid())
    body = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(body, len(body))
    program = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(buffer))
    program_buffer = ctypes.create_string_buffer(program, len(program))
    return bool(libc.prctl(PR_SET_SECCOMP, 2, program_buffer, 0, 0) == 0)
