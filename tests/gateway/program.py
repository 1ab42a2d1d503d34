"""Running the console script as a person does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.gateway.scripted import eventually

PROGRAM = Path(sys.executable).with_name("edgedepot")
ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str | Path, cwd: Path | None = None, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command's end, with what it wrote; `given` is its standard input."""
    command = [str(PROGRAM), *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False, cwd=cwd, input=given
    )


def output(*arguments: str | Path, cwd: Path | None = None, given: str | None = None) -> str:
    """What a command writes that has nothing to complain of."""
    done = run(*arguments, cwd=cwd, given=given)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "\x1b" not in done.stdout, "colours, and yet no terminal"
    return done.stdout


def complaint(*arguments: str | Path, code: int = 2, cwd: Path | None = None, given: str | None = None) -> str:
    """What a wrong command says; never a traceback."""
    done = run(*arguments, cwd=cwd, given=given)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


def on_terminal(folder: Path, *arguments: str) -> str:
    """What a command writes to stderr when that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    with open(folder / "stdout", "wb") as out:
        process = subprocess.Popen([str(PROGRAM), *arguments], stdout=out, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the terminal is closed at the other end
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return said.decode()


class Run:
    """One `edgedepot run`."""

    def __init__(self, file: Path, *options: str) -> None:
        command = [str(PROGRAM), "run", *options, str(file)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # for storages of the tests' own
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for(self, text: str) -> None:
        eventually(lambda: self.said(text) or self.process.poll() is not None)
        assert self.said(text), self.lines

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join()
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()


Start = Callable[..., Run]
