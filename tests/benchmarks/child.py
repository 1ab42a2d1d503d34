"""A measured process, and how it talks with the benchmark: a line of JSON at a time."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Self


class Child:
    """A module of this package in a process of its own. As a context manager it makes sure that it ends.

    `python` is the interpreter of another environment, for what this one does not have.
    """

    def __init__(self, module: str, *arguments: object, python: str = sys.executable) -> None:
        command = [python, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word: str) -> None:
        """Send it a word."""
        assert self._process.stdin
        print(word, file=self._process.stdin, flush=True)

    def hear(self) -> Any:
        """What it says next; blocks. Raises RuntimeError when it ended instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def say(**fields: object) -> None:
    """In the child: say something to the benchmark."""
    print(json.dumps(fields), flush=True)


def listen(*words: str) -> str:
    """In the child: block until the benchmark says one of these words. Ends the process where it never does."""
    word = sys.stdin.readline().strip()
    if word not in words:
        raise SystemExit(f"expected one of {words}, got {word!r}")
    return word


def settings_from_command_line() -> Mapping[str, Any]:
    """In the child: the settings that the benchmark passed as JSON."""
    settings: Mapping[str, Any] = json.loads(sys.argv[1])
    return settings
