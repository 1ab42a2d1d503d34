"""A copy of what the rows mean, beside the store: ``gateway.db.catalogue``.

The rows of a damaged store tell their series by number. Were the pages lost that say which model and device that is,
the rows would be worth nothing: so models, series and sources are written down here too, with whose store it is, its
epoch, and the last number it has given out. One line each, with a checksum, and the last one of its kind counts; a line
that cannot be read is none. Nothing waits for it: the store's own file is the authority.

    c0ffee00 ["series", 7, 1, "mast"]
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.files import put_in_place
from edgedepot.storage.sqlite.sectors import read_at, refused

log = logging.getLogger(__name__)
_ROOMY = 1 << 16
Line = tuple[Any, ...]


class Sidecar:
    """What the file says. `note` adds to it, `write` makes it anew; both only warn where the disk refuses. `mark` does
    not return before it is on the device."""

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".catalogue")
        self._refused = False
        self.load()

    def load(self) -> None:
        """Read the file, and know nothing else. Raises `StoreUnusable` where it is there and cannot be opened."""
        self._lines: dict[tuple[Any, ...], Line] = {}
        self._added = 0
        before = refused()
        found = self._read()
        self.is_doubtful = refused() > before
        for text in found.split(b"\n"):
            line = _parsed(text)
            if line is not None:
                self._take(line)

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                return read_at(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except (FileNotFoundError, IsADirectoryError):
            return b""
        except OSError as exc:
            raise StoreUnusable(f"{self.path} cannot be read: {exc.strerror}") from exc

    @property
    def known(self) -> bool:
        """Whether there was a store here."""
        return bool(self._lines)

    @property
    def store_id(self) -> str | None:
        return self._value("store_id", None)  # type: ignore[no-any-return]  # as _SHAPES says

    @property
    def gateway_id(self) -> str | None:
        return self._value("gateway_id", None)  # type: ignore[no-any-return]

    @property
    def store_epoch(self) -> int:
        """The highest epoch of the store."""
        return int(self._value("epoch", 0))

    @property
    def seq(self) -> int:
        """A number that the store has given out."""
        return int(self._value("seq", 0))

    @property
    def grown(self) -> bool:
        """Whether so much was added that it should be written anew."""
        return self._added > _ROOMY

    @property
    def salvaging(self) -> str | None:
        """The damaged file out of which a new store is being made."""
        return self._value("salvaging", None) or None

    @property
    def damage(self) -> tuple[str, bool, bool] | None:
        """What that salvage, or the last one, is about."""
        line = self._lines.get(("damage",))
        return None if line is None else (line[1], line[2], line[3])

    def rows(self, kind: str) -> list[Line]:
        """The rows of kind ``model``, ``series`` or ``source``."""
        return [line[1:] for line in self._lines.values() if line[0] == kind]

    def last(self, kind: str) -> int:
        """The highest number of that kind, 0 for none."""
        return max((line[1] for line in self._lines.values() if line[0] == kind), default=0)

    @property
    def restoring(self) -> str | None:
        """The file that gives way to a copy, under its new name."""
        return self._value("restoring", None) or None

    def find(self, line: Line) -> Line | None:
        """What it says of the same thing."""
        return self._lines.get(_key(line))

    def note(self, *lines: Line, sync: bool = False) -> None:
        """Add lines, those that are new; with `sync` on the device, where it takes them."""
        new = [line for line in lines if self._lines.get(_key(line)) != line]
        try:
            self._add(new, sync=sync)
        except OSError as exc:
            self._warn(exc)
            self._added = _ROOMY + 1  # what is noted next brings this with it

    def mark(self, *lines: Line) -> None:
        """Add lines on which what is done next depends. Raises `OSError` where they cannot be written."""
        before = dict(self._lines)
        try:
            with contextlib.suppress(OSError):
                self._add(lines, sync=True)
                sync_folder(self.path)
                return
            self._rewrite()  # a new file may still do
        except OSError:
            self._lines = before
            raise

    def _add(self, lines: Sequence[Line], *, sync: bool) -> None:
        for line in lines:
            self._take(line)
        text = b"".join(map(_text, lines))
        self._added += len(text)
        if self.grown:
            self._rewrite()
        elif lines:
            with self.path.open("ab") as file:
                file.write(b"\n" + text)  # a line of its own, also behind one that was cut off
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
        self._refused = False

    def forget(self) -> None:
        """It was another store's: what is noted next begins a new file."""
        self._lines.clear()
        self._added = _ROOMY + 1

    def write(self) -> None:
        """Write all of it anew, so that it is there whole or as it was."""
        try:
            self._rewrite()
        except OSError as exc:
            self._warn(exc)

    def _rewrite(self) -> None:
        part = self.path.with_name(self.path.name + ".new")
        try:
            with part.open("wb") as file:
                file.writelines(map(_text, self._lines.values()))
                file.flush()
                os.fsync(file.fileno())
            put_in_place(part, self.path, self.path)
            sync_folder(self.path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._added = 0
        self._refused = False

    def _value(self, kind: str, default: Any) -> Any:
        line = self._lines.get((kind,))
        return default if line is None else line[1]

    def _take(self, line: Line) -> None:
        self._lines[_key(line)] = line

    def _warn(self, exc: OSError) -> None:
        if not self._refused:
            log.warning("%s cannot be written, the store does without: %s", self.path, exc)
        self._refused = True


def sync_folder(path: Path) -> None:
    """Have names in a file's folder survive a power cut."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _key(line: Line) -> tuple[Any, ...]:
    return line[:2] if line[0] in ("model", "series", "source") else line[:1]


def _text(line: Line) -> bytes:
    body = json.dumps(line, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


_SHAPES: dict[str, tuple[type, ...]] = {
    "store_id": (str,),
    "gateway_id": (str,),
    "epoch": (int,),
    "seq": (int,),
    "salvaging": (str,),
    "damage": (str, bool, bool),
    "restoring": (str,),
    "model": (int, str, str, str),
    "series": (int, int, str),
    "source": (int, str),
}


def _parsed(text: bytes) -> Line | None:
    head, _, body = text.partition(b" ")
    if head != b"%08x" % zlib.crc32(body):
        return None
    try:
        line = tuple(json.loads(body))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = _SHAPES.get(line[0]) if line and isinstance(line[0], str) else None
    fits = kinds is not None and tuple(map(type, line[1:])) == kinds
    return line if fits else None
