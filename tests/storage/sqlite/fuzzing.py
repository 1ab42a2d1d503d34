"""Changes the files of stores at random, and has judged what becomes of them (fuzz_judge.py)."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.storage.sqlite.damaged import LATER_STAGES, PAGE, STAGES, leave
from tests.storage.sqlite.fuzz_judge import UNREADABLE, Changes, Opener, Stored, judge, open_store

SUFFIXES = ("", "", "", "-wal", "-wal", "-shm", ".catalogue", ".lock")
_EDGES = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"-1",
    b"9" * 20,
    b'"',
    b"[",
)


class Choice(Protocol):
    """Where the random numbers come from."""

    def number(self, low: int, high: int) -> int:
        """From `low` to `high`, both among them."""
        ...

    def some(self, length: int) -> bytes:
        """So many bytes, or fewer."""
        ...


class Seeded:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def some(self, length: int) -> bytes:
        return self._random.randbytes(length)


def make_stores(folder: Path) -> list[Stored]:
    """Those to change: each stage, with most of it in the log and in the file; of the later stages in the file."""
    made = []
    for stage in (*STAGES, *LATER_STAGES):
        for checkpointed in (False, True) if stage in STAGES else (True,):
            left = folder / f"{stage} {'in the file' if checkpointed else 'in the log'}"
            left.mkdir()
            leave(left, stage, checkpointed=checkpointed)
            made.append(Stored(left, folder / "copy"))
    return made


def change(changes: Changes, choice: Choice) -> None:
    """Change the files of a store here and there."""
    for _ in range(choice.number(1, 6)):
        if choice.number(0, 3) == 0:
            _change_record(changes, choice)
            continue
        suffix = SUFFIXES[choice.number(0, len(SUFFIXES) - 1)]
        file = changes.path.with_name(changes.path.name + suffix)
        before = after = file.read_bytes() if file.exists() else b""
        if file.exists():
            content = bytearray(before)
            _EDITS[choice.number(0, len(_EDITS) - 1)](content, choice)
            after = bytes(content)
            file.write_bytes(after)
        if choice.number(0, 60) == 0:
            file.unlink(missing_ok=True)
            after = b""
        changes.note(suffix, before, after)


def _flip(content: bytearray, choice: Choice) -> None:
    for _ in range(choice.number(1, 4)):
        if content:
            content[choice.number(0, len(content) - 1)] ^= 1 << choice.number(0, 7)


def _overwrite(content: bytearray, choice: Choice) -> None:
    place = choice.number(0, len(content))
    piece = choice.some(choice.number(1, 200))
    content[place : place + len(piece)] = piece


def _edge(content: bytearray, choice: Choice) -> None:
    """In a page's head, mostly, or a frame's."""
    place = choice.number(0, len(content) // PAGE) * PAGE + choice.number(0, 120)
    piece = _EDGES[choice.number(0, len(_EDGES) - 1)]
    content[place : place + len(piece)] = piece


def _zero(content: bytearray, choice: Choice) -> None:
    place = choice.number(0, len(content) // 512) * 512
    length = min(choice.number(1, 16) * 512, len(content) - place)
    content[place : place + max(length, 0)] = bytes(max(length, 0))


def _truncate(content: bytearray, choice: Choice) -> None:
    del content[choice.number(0, len(content)) :]


def _extend(content: bytearray, choice: Choice) -> None:
    content += choice.some(choice.number(1, 2 * PAGE))


def _copy_page(content: bytearray, choice: Choice) -> None:
    source, target = (choice.number(0, len(content) // PAGE) * PAGE for _ in range(2))
    content[target : target + PAGE] = content[source : source + PAGE]


_EDITS: list[Callable[[bytearray, Choice], None]] = [_flip, _overwrite, _edge, _zero, _truncate, _extend, _copy_page]


def _change_record(changes: Changes, choice: Choice) -> None:
    """Change a value through SQLite, so that nothing but the store's own reading can find it wrong."""
    changes.note_record()
    connected = contextlib.closing(sqlite3.connect(changes.path, isolation_level=None))
    with contextlib.suppress(*UNREADABLE), connected as file:
        file.text_factory = lambda raw: raw.decode("utf-8", "replace")
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        table = tables[choice.number(0, len(tables) - 1)] if tables else "_meta"
        columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
        rows = file.execute(f"SELECT * FROM {table}").fetchall()
        if not rows:
            return
        row, column = rows[choice.number(0, len(rows) - 1)], choice.number(0, len(columns) - 1)
        mine = " AND ".join(f"{name} IS ?" for name in columns)
        file.execute(f"UPDATE {table} SET {columns[column]} = ? WHERE {mine}", (_other(row[column], choice), *row))


def _other(value: object, choice: Choice) -> object:
    kind = choice.number(0, 5)
    if kind == 0:
        return None
    if kind == 1:
        return choice.number(-(2**63), 2**63 - 1)
    if kind == 2:
        return choice.some(20)
    text = bytearray(value if isinstance(value, bytes) else str(value).encode())
    (_flip if kind < 5 else _truncate)(text, choice)
    return bytes(text).decode("utf-8", "replace")


def run_one(stores: list[Stored], folder: Path, choice: Choice, opened: Opener = open_store) -> str:
    """Change one of the stores in a folder of its own, and judge it."""
    shutil.rmtree(folder, ignore_errors=True)
    stored = stores[choice.number(0, len(stores) - 1)]
    shutil.copytree(stored.folder, folder)
    changes = Changes(stored, folder / "x.db")
    change(changes, choice)
    return judge(changes, opened)
