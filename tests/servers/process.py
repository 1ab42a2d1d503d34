"""What all servers have in common: start, wait until ready, stop, kill, and say what went wrong."""

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.servers import ServerError

KEEPER = Path(__file__).with_name("keeper.py")
START_TIMEOUT = 60.0
END_TIMEOUT = 30.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Return as soon as the condition holds; TimeoutError with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.005)


class Server(ABC):
    """One server process on this machine, with its keeper (keeper.py) beside it.

    `start`, then `stop` or `kill`, as often as one likes; `close` at last. As a context manager it starts and closes.
    Calls block until what they say has happened. Any thread may call, one at a time; a server does not mind if the
    thread that started it ends. Raises ServerError, with the end of the server's log, when it does not come up.
    """

    name: str
    stop_signal = signal.SIGTERM

    def __init__(self, log: Path) -> None:
        self.log = log
        self.pid = 0
        """The server's own process id while it runs."""
        self._keeper: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments; it must stay in the foreground and keep its process id."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the started server can be used by now."""

    @property
    def running(self) -> bool:
        """Whether it was started and neither stopped nor died."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        if self.running:
            raise ServerError(f"{self.name} runs already, as process {self.pid}")
        self.stop()  # closes what is left of a server that died by itself
        keeper = [sys.executable, "-I", "-S", str(KEEPER), str(int(self.stop_signal))]
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [*keeper, *self.command()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops its servers in order
            )
        assert self._keeper.stdout
        with self._keeper.stdout as first_line:
            self.pid = int(first_line.readline() or 0)
        try:
            wait_until(lambda: not self.running or self.is_ready(), f"{self.name} is ready", START_TIMEOUT)
        except TimeoutError as exc:
            self.stop()
            raise ServerError(f"{exc}; its log ends with:\n{self.log_tail()}") from exc
        if not self.running:
            code = self._keeper.returncode
            raise ServerError(f"{self.name} ended with {code} while starting; its log:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop it in its own orderly way. Nothing happens if it does not run."""
        if self._keeper:
            assert self._keeper.stdin
            self._keeper.stdin.close()  # the keeper's sign
            self._keeper.wait(END_TIMEOUT)
            self._keeper = None

    def kill(self) -> None:
        """SIGKILL, and wait until it and its children are gone: `start()` can follow at once."""
        if not self.running:
            raise ServerError(f"{self.name} cannot be killed, it does not run")
        os.kill(self.pid, signal.SIGKILL)
        assert self._keeper
        self._keeper.wait(END_TIMEOUT)
        self.stop()

    def restart(self) -> None:
        """Stop it in order and start it again on the same data and port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its data. Idempotent."""
        self.stop()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        with ExitStack() as unless_started:
            unless_started.callback(self.close)
            self.start()
            unless_started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
