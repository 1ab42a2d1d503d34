"""A program of somebody else's that reads a store's file with SQLite alone, for as long as it likes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

PROGRAM = """
import hashlib, sqlite3, sys
connection = None
for line in sys.stdin:
    what, _, path = line.rstrip("\\n").partition(" ")
    if what == "begin":
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN")
    if what == "end":
        connection.close()
        print("ended", flush=True)
        continue
    rows = "\\n".join(connection.iterdump())
    (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    print(hashlib.sha256(rows.encode()).hexdigest(), found, flush=True)
"""


@cache
def _program() -> subprocess.Popen[str]:
    """One for all, as it takes its time to start."""
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(line: str) -> str:
    program = _program()
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return program.stdout.readline().strip()


class Foreign:
    """One read transaction, of which there may be one at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.stat()
        self._saw = _ask(f"begin {path}")
        assert self._saw.endswith(" ok")

    def is_at(self, path: Path) -> bool:
        """Whether the store is still in the file that it reads."""
        return os.path.samestat(self._file, path.stat())

    def check(self) -> None:
        """It sees what it saw."""
        assert _ask("look") == self._saw

    def end(self) -> None:
        self.check()
        _ask("end")
