"""Export, import and query take the same memory for many readings as for few.

`python -m tests.gateway.test_constant_memory 1000000` prints what they take for that many.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.gateway.program import PROGRAM

START = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS = ("--field=temperature=float", "--field=count=int?", "--field=note=str?")
FEW, MANY = 20_000, 120_000
MEBIBYTE = 1 << 20
ALLOWED = 16 * MEBIBYTE
"""What the many may take more: as dicts they would take some 60 MiB more, as lines of text 10."""


def write_csv(path: Path, number: int) -> None:
    """Readings of three devices."""
    with path.open("w", encoding="utf-8") as file:
        file.write("device_id,timestamp,temperature,count,note\n")
        for index in range(number):
            moment = START + timedelta(seconds=index // 3)
            file.write(
                f"station-{index % 3},{moment.isoformat()},{20 + index % 1000 / 7!r},{index},note {index % 10}\n"
            )


def peak(*arguments: str | Path) -> int:
    """The greatest resident memory of a command in bytes; its output goes nowhere."""
    process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * 1024


def peaks(folder: Path, number: int) -> Iterator[tuple[str, int]]:
    """What each command takes for so many readings."""
    store, csv, lines = folder / f"{number}.db", folder / f"{number}.csv", folder / f"{number}.jsonl"
    write_csv(csv, number)
    yield "import of CSV", peak("import", store, "weather", csv, "--create", *FIELDS)
    yield "export to JSON lines", peak("export", store, "weather", "-o", lines)
    yield "import of JSON lines, all duplicates", peak("import", store, "weather", lines)
    yield "export to CSV", peak("export", store, "weather", "-o", csv)
    yield "query as CSV", peak("query", store, "weather", "--csv")
    yield "query as JSON", peak("query", store, "weather", "--json")


def test_memory_does_not_grow_with_the_number_of_readings(tmp_path: Path) -> None:
    few, many = dict(peaks(tmp_path, FEW)), dict(peaks(tmp_path, MANY))
    assert {name: size - few[name] for name, size in many.items() if size > few[name] + ALLOWED} == {}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        for name, size in peaks(Path(folder), int(sys.argv[1])):
            print(f"{name:<40}{size / MEBIBYTE:8.1f} MiB", flush=True)
