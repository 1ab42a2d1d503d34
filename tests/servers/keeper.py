"""Runs one server, and ends it when whoever asked for it is gone: `python keeper.py STOP_SIGNAL COMMAND...`

Standard input is a pipe that nobody writes to. It ends when the test run closes it (that is how a server is stopped)
or dies, of whatever: then the server gets STOP_SIGNAL and, if that does not end it, SIGKILL. Nothing stays behind.

Why not PR_SET_PDEATHSIG (`setpriv --pdeathsig`): the kernel sends that signal when the *thread* that started the
server ends, and tests start servers from helper threads; and it forgets it when the process changes its user, as
PostgreSQL's must. A pipe knows neither trap.

As a "subreaper" the keeper inherits the server's own children when the server is killed, and ends only when they have.
So once it has ended the server can be started again on the same data. It runs as a plain script, apart from the tests.
"""

import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0
"""Seconds that a server has to stop, and its children to follow it."""


def main(stop_signal: int, command: list[str]) -> int:
    """Print the server's process id, keep it, and return its exit code in the shell's manner."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ended = wake_on_child()
    server = spawn(command)
    print(server, flush=True)
    status = wait_for(server, stop_signal, ended)
    end_orphans()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def wake_on_child() -> int:
    """A descriptor that becomes readable when a child ends, to wait for that and for the pipe at once."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def spawn(command: list[str]) -> int:
    """Start the server with nothing to read, and both outputs into our standard error (its log file)."""
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these two, a server should not
    )


def wait_for(server: int, stop_signal: int, ended: int) -> int:
    """Wait for the server's end, and bring it about when the pipe ends. Returns its wait status."""
    watched = [ended, 0]
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable = select.select(watched, [], [], left)[0]
        if 0 in readable and not os.read(0, 1):
            watched = [ended]
            deadline = time.monotonic() + PATIENCE
            os.kill(server, stop_signal)
        elif not readable:
            deadline = None
            os.kill(server, signal.SIGKILL)
        if ended in readable:
            os.read(ended, 4096)
        status = reap(server)
        if status is not None:
            return status


def reap(server: int) -> int | None:
    """Collect what has ended; the server's wait status if it is among it."""
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in (0, server):
            return status if process else None


def end_orphans() -> None:
    """Wait until the server's children have ended too, and kill those that take too long."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            process, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process:
            continue
        if time.monotonic() > deadline:
            for child in children():
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def children() -> list[int]:
    """Our children's process ids; theirs become ours as they end."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if parent == os.getpid():
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
