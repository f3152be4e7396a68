"""Attacks on the sandbox, and the small world that they are let loose on.

An attack is a Python program. It got in if the world is not as it was, if a secret is in its
output, or if it prints `CLAIM` where only it can know. `attack_sandbox.py` counts, and
`tests/test_sandbox_attacks.py` holds the counts to zero. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CLAIM = "I-GOT-IN"
KEY = 0x5EED
"""Of System V objects."""
LEFT_FILES = ("/tmp/r1pipe-left", "/dev/shm/r1pipe-attack")  # noqa: S108 - that is the attack
SECRET = f"secret-{secrets.token_hex(8)}"
_BUFFER = ctypes.create_string_buffer(SECRET.encode())

PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
target, precious = {target!r}, {target!r} + '/precious'
victim, harness, address, port, abstract = {victim}, {harness}, {address}, {port}, {abstract!r}
is_x86 = os.uname().machine == 'x86_64'
def call(x86, arm, *values):
    return libc.syscall(x86 if is_x86 else arm, *values)
def claim(is_in):
    if is_in: print({claim!r}, flush=True)
def fork():
    pid = os.fork()
    if pid == 0:
        import time
        time.sleep(20)
        os._exit(0)
"""

FILES = {
    "truncate": "os.truncate(precious, 0)",
    "open to write": "open(precious, 'w').write('x')",
    "open to append": "open(precious, 'a').write('x')",
    "open to read and write": "os.ftruncate(os.open(precious, os.O_RDWR), 0)",
    "chmod": "os.chmod(precious, 0)",
    "chmod of a folder": "os.chmod(target, 0o755)",
    "fchmod of a file opened to read": "os.fchmod(os.open(precious, os.O_RDONLY), 0o777)",
    "chown": "os.chown(precious, 12345, 12345)",
    "lchown by the C library": "libc.lchown(precious.encode(), 12345, 12345)",
    "utime": "os.utime(precious, (1, 1))",
    "utime by a folder": "os.utime('precious', (1, 1), dir_fd=os.open(target, os.O_RDONLY))",
    "unlink": "os.unlink(precious)",
    "rename away": "os.rename(precious, target + '/other')",
    "rename into the folder": "open('a', 'w').close(); os.rename('a', target + '/a')",
    "replace": "open('a', 'w').close(); os.replace('a', precious)",
    "hard link out": "open('a', 'w').close(); os.link('a', target + '/a')",
    "hard link in, then write": "os.link(precious, 'b'); open('b', 'w').write('x')",
    "symbolic link out": "os.symlink('x', target + '/a')",
    "symbolic link in, then write": "os.symlink(precious, 'b'); open('b', 'w').write('x')",
    "symbolic link in, then read": "os.symlink(precious, 'b'); print(open('b').read())",
    "make a folder": "os.mkdir(target + '/a')",
    "make a pipe": "os.mkfifo(target + '/a')",
    "make a device": "os.mknod(target + '/a', 0o600 | 0o020000, os.makedev(1, 3))",
    "extended attribute": "os.setxattr(precious, 'user.x', b'1')",
    "remove a tree": "import shutil; shutil.rmtree(target)",
    "path with dots": "open('../../../../../../' + precious, 'w').write('x')",
    "go there first": "os.chdir(target); open('precious', 'w').write('x')",
    "read": "print(open(precious).read())",
    "list": "print(os.listdir(target))",
    "read by the process's root": "print(open('/proc/self/root' + precious).read())",
    "read by the caller's root": "print(open(f'/proc/{harness}/root' + precious).read())",
    "read passwords": "print(open('/etc/passwd').read()); claim(True)",
    "change the library": "os.close(os.open(os.__file__, os.O_WRONLY)); claim(True)",
    "installed packages": (
        "import glob\n"
        "found = glob.glob(sys.base_prefix + '/lib/python3*/*-packages/*')\n"
        "found += glob.glob('/usr/lib/python3/*-packages/*')\n"
        "claim(any(os.path.isdir(p) and os.listdir(p) for p in found))"
    ),
    "bind a folder": "claim(libc.mount(b'/usr', b'/box', b'', 0x1000, None) == 0)",
    "take a mount away": "claim(libc.umount2(b'/usr/lib', 2) == 0)",
    "make the root writable": "claim(libc.mount(b'none', b'/', b'', 32 | 0x1000, None) == 0)",
    "another root": "os.chroot('.'); claim(True)",
    "the caller's namespace": (
        "fd = os.open(f'/proc/{harness}/ns/mnt', os.O_RDONLY); claim(libc.setns(fd, 0) == 0)"
    ),
    "a namespace of its own": "claim(libc.unshare(0x10000000 | 0x20000) == 0)",
}
PROCESSES = {
    "kill": "os.kill(victim, 9)",
    "kill a group": "os.killpg(victim, 9)",
    "stop": "os.kill(victim, 19)",
    "kill by a descriptor": "import signal; signal.pidfd_send_signal(os.pidfd_open(victim), 9)",
    "kill a thread": "call(234, 131, victim, victim, 9)",
    "queue a signal": "libc.sigqueue(victim, 9, 0)",
    "a pipe's owner and signal": (
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, victim)\n"
        "fcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n"
        "os.write(w, b'x')"
    ),
    "limit another": "import resource; resource.prlimit(victim, resource.RLIMIT_NOFILE, (3, 3))",
    "limit the caller": "import resource; resource.prlimit(harness, resource.RLIMIT_CORE, (0, 0))",
    "slow another down": "os.setpriority(os.PRIO_PROCESS, victim, 19)",
    "slow a user down": "os.setpriority(os.PRIO_USER, 0, 19); os.setpriority(0, victim, 19)",
    "processors of another": "os.sched_setaffinity(victim, [0])",
    "schedule of another": "os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0))",
    "disk priority of another": "claim(call(251, 30, 1, victim, 3 << 13) == 0)",
    "trace": "claim(libc.ptrace(16, victim, 0, 0) == 0)",
    "memory of the caller": (
        "class V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
        "b = ctypes.create_string_buffer(40)\nmine, theirs = V(ctypes.addressof(b), 39), "
        "V(address, 39)\n"
        "libc.process_vm_readv(harness, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)\n"
        "print(b.raw)"
    ),
    "memory of the caller by a file": (
        "f = open(f'/proc/{harness}/mem', 'rb'); f.seek(address); print(f.read(39))"
    ),
    "environment of the caller": "print(open(f'/proc/{harness}/environ').read())",
    "environment of the parent": "print(open(f'/proc/{os.getppid()}/environ').read())",
    "descriptor of the caller": (
        "fd = os.pidfd_open(harness); claim(call(438, 438, fd, 1, 0) >= 0)"
    ),
    "list of processes": "claim(str(victim) in os.listdir('/proc'))",
    "end the sandbox": "os.kill(os.getppid(), 9)",
    "fork and stay": "fork()",
    "fork twice and stay": "os.fork() or fork()",
    "start a program": "import subprocess; subprocess.Popen(['/bin/sleep', '20']); claim(True)",
    "spawn a program": "os.posix_spawn('/bin/sleep', ['sleep', '20'], {{}}); claim(True)",
    "become a program": "os.execv('/bin/echo', ['echo', {claim!r}])",
    "a program of its own in memory": (
        "fd = os.memfd_create('x'); os.write(fd, b'#!/bin/echo ' + {claim!r}.encode())\n"
        "os.execve(fd, ['x'], {{}})"
    ),
    "another user": "os.setuid(1); claim(True)",
}
LEFT = {
    "shared memory": "libc.shmget(0x5EED, 1 << 20, 0o1666)",
    "semaphores": "libc.semget(0x5EED, 4, 0o1666)",
    "message queue": "libc.msgget(0x5EED, 0o1666)",
    "POSIX message queue": (
        "librt = ctypes.CDLL('librt.so.1')\n"
        "claim(librt.mq_open(b'/r1pipe-attack', 0o102, 0o666, None) >= 0)"
    ),
    "POSIX shared memory": "open('/dev/shm/r1pipe-attack', 'w'); claim(True)",
    "a key": "claim(call(248, 217, b'user', b'r1pipe', b'x', 1, -4) > 0)",
    "a file beside its folder": "open('../left', 'w').write('x'); claim(True)",
    "a file in /tmp": "open('/tmp/r1pipe-left', 'w').write('x'); claim(True)",
    "files beyond the total": (
        "for i in range(20): open(str(i), 'wb').write(bytes(12 << 20))\nclaim(True)"
    ),
    "a large file": "open('a', 'wb').write(bytes(40 << 20)); claim(True)",
    "room without bytes": (
        "for i in range(40): os.posix_fallocate(os.open(str(i), 66), 0, 8 << 20)\nclaim(True)"
    ),
    "many small files": "for i in range(20000): os.mkdir(str(i))\nclaim(True)",
}
NETWORK = {
    "connect": "import socket; socket.create_connection(('127.0.0.1', port), 1)",
    "datagram": "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', port))",
    "an abstract socket": "import socket; socket.socket(1).connect('\\0' + abstract)",
    "a socket in the folder": "import socket; socket.socket(1).connect(target + '/socket')",
    "raw packets": "import socket; socket.socket(17, 3); claim(True)",
    "settings of the network": "import socket; socket.socket(16, 3, 0); claim(True)",
    "serve": "import socket; s = socket.socket(); s.bind(('', 0)); s.listen(); claim(True)",
}
KERNEL = {
    "bpf": "claim(call(321, 280, 0, ctypes.create_string_buffer(128), 128) >= 0)",
    "perf events": "claim(call(298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0) >= 0)",
    "io_uring": "claim(call(425, 425, 4, ctypes.create_string_buffer(256)) >= 0)",
    "userfaultfd": "claim(call(323, 282, 1) >= 0)",
    "keyring": "claim(call(250, 219, 1, 0) >= 0)",
    "anonymous file": "os.memfd_create('x'); claim(True)",
    "personality": "claim(libc.personality(0x0040000) >= 0)",
    "fanotify": "claim(libc.fanotify_init(0, 0) >= 0)",
    "inotify": "claim(libc.inotify_init() >= 0)",
    "clone a user namespace": "claim(call(56, 220, 0x10000000 | 17, 0, 0, 0, 0) >= 0)",
    "clone3": (
        "b = (ctypes.c_ulonglong * 8)(0x10000000, 0, 0, 0, 17)\nclaim(call(435, 435, b, 64) >= 0)"
    ),
    "x32 numbers": "claim(is_x86 and libc.syscall(0x40000000 | 39) > 0)",
    "lock memory": "claim(libc.mlockall(1) == 0)",
    "host name": "claim(libc.sethostname(b'x', 1) == 0)",
    "kernel log": "claim(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096) >= 0)",
    "clock": "import time; time.clock_settime(0, time.time()); claim(True)",
    "write all disks": "claim(libc.syncfs(1) == 0)",
}
FAMILIES = {
    "files": FILES,
    "processes": PROCESSES,
    "left": LEFT,
    "network": NETWORK,
    "kernel": KERNEL,
}
ATTACKS = {f"{family}: {name}": code for family, t in FAMILIES.items() for name, code in t.items()}
"""Name -> program."""


@dataclass
class World:
    """A folder, a process, sockets and a secret, all of the user who runs the sandbox."""

    folder: Path
    victim: subprocess.Popen[bytes]
    tcp: socket.socket
    udp: socket.socket
    abstract: socket.socket
    unix: socket.socket

    def program(self, code: str) -> str:
        """Return an attack as a program."""
        prelude = PRELUDE.format(
            target=str(self.folder),
            victim=self.victim.pid,
            harness=os.getpid(),
            address=ctypes.addressof(_BUFFER),
            port=self.tcp.getsockname()[1],
            abstract=f"r1pipe-{os.getpid()}",
            claim=CLAIM,
        )
        return prelude + code.replace("{claim!r}", repr(CLAIM)).replace("{{}}", "{}")

    def state(self) -> dict[str, object]:
        """Return all of the world that an attack may change."""
        pid = self.victim.pid
        found: dict[str, object] = {"alive": self.victim.poll() is None}
        for path in (self.folder, self.folder / "precious"):
            with contextlib.suppress(OSError):
                about = path.stat()
                found[path.name] = (about.st_mode, about.st_uid, about.st_mtime_ns, about.st_nlink)
        with contextlib.suppress(OSError):
            found["text"] = (self.folder / "precious").read_text()
            found["names"] = sorted(os.listdir(self.folder))
            found["attributes"] = os.listxattr(self.folder / "precious")
        with contextlib.suppress(OSError):
            found["priority"] = os.getpriority(os.PRIO_PROCESS, pid)
            found["processors"] = os.sched_getaffinity(pid)
            found["schedule"] = os.sched_getscheduler(pid)
            found["limit"] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            found["stopped"] = Path(f"/proc/{pid}/stat").read_text().split()[2] in "tT"
        found["own limits"] = [resource.getrlimit(n) for n in range(16)]
        for name in ("shm", "sem", "msg"):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/sysvipc/{name}").read_text().splitlines()
                found[name] = [line.split()[:2] for line in lines[1:]]
        found["calls"] = [_has_guest(each) for each in (self.tcp, self.abstract, self.unix)]
        found["datagram"] = _has_datagram(self.udp)
        found["left"] = [os.path.lexists(path) for path in LEFT_FILES]
        return found

    def close(self) -> None:
        """Take the world away."""
        self.victim.kill()
        self.victim.wait()
        for each in (self.tcp, self.udp, self.abstract, self.unix):
            each.close()
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def make_world() -> World:
    """Make a world, with the secret in a file, in the environment and in memory."""
    os.environ["R1PIPE_SECRET"] = SECRET
    base = Path(tempfile.mkdtemp(prefix="r1pipe-world-"))
    base.chmod(0o777)
    folder = base / f"folder-{SECRET}"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "precious").write_text(SECRET)
    (folder / "precious").chmod(0o666)
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", tcp.getsockname()[1]))
    abstract, unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0r1pipe-{os.getpid()}")
    os.chdir(folder)
    unix.bind("socket")
    os.chdir("/")
    (folder / "socket").chmod(0o777)
    for each in (abstract, unix):
        each.listen()
    for each in (tcp, udp, abstract, unix):
        each.setblocking(False)
    victim = subprocess.Popen(["/bin/sleep", "600"])
    return World(folder, victim, tcp, udp, abstract, unix)


def _has_guest(server: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        server.accept()[0].close()
        return True
    return False


def _has_datagram(server: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(server.recv(10))
    return False


def processes_of(pids: Sequence[int]) -> int:
    """Return how many processes descend from some processes, themselves included."""
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(name)] = int(
                Path(f"/proc/{name}/stat").read_text().rsplit(")")[1].split()[1]
            )
    found, size = set(pids), -1
    while size != len(found):
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return len(found & parents.keys())
