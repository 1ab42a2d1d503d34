"""Asks both and writes docs/comparison.md:

python -m tests.comparison
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.comparison.ours import answers
from tests.comparison.table import PAGE, PEER, ROOT, page

# An environment of its own, beside the servers that the tests fetch.
FOLDER = ROOT / ".servers" / "comparison"


def peer_answers() -> dict[str, str]:
    """What django-devicehub answers, installed where it is not yet."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", PEER], check=True)
    command = [str(python), "-W", "ignore::RuntimeWarning", "-m", "tests.comparison.devicehub"]
    found: dict[str, str] = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return found


if __name__ == "__main__":
    text = page(answers(), peer_answers())
    PAGE.write_text(text)
    print(text, end="")
