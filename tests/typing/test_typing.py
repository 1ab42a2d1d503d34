"""mypy --strict and pyright on the examples, on typed queries, and on mistakes that they have to find."""

import json
import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARKS = re.compile(r"  # type: ignore\[.*")


def mypy(*paths: Path) -> Set[tuple[str, int]]:
    """File names and lines with errors."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--show-absolute-path", *map(str, paths)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.stderr == ""
    return {(Path(match[1]).name, int(match[2])) for match in re.finditer(r"^(.*?):(\d+): error:", found.stdout, re.M)}


def pyright(*paths: Path) -> Set[tuple[str, int]]:
    """File names and lines with errors."""
    command = [sys.executable, "-m", "pyright", "--outputjson", *map(str, paths)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    report = json.loads(found.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(paths)
    return {
        (Path(error["file"]).name, error["range"]["start"]["line"] + 1)
        for error in report["generalDiagnostics"]
        if error["severity"] == "error"
    }


def test_examples_and_typed_queries_have_no_error() -> None:
    paths = [*(ROOT / "examples").glob("*.py"), HERE / "queries.py"]
    assert len(paths) > 2
    assert mypy(*paths) == set()
    assert pyright(*paths) == set()


def test_both_find_every_mistake_and_nothing_else(tmp_path: Path) -> None:
    lines = (HERE / "mistakes.py").read_text().splitlines()
    marked = {("unmarked.py", number) for number, line in enumerate(lines, 1) if MARKS.search(line)}
    assert len(marked) == 25
    unmarked = tmp_path / "unmarked.py"
    unmarked.write_text("\n".join(MARKS.sub("", line) for line in lines))
    assert mypy(unmarked) == marked
    assert pyright(unmarked) == marked
