"""Running the console script as a person does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("edgedepot")


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
