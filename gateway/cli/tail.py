"""`edgedepot tail`: new readings as they come, like ``tail -f``."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.output import cell, visible
from edgedepot.cli.rows import json_of
from edgedepot.cli.scope import columns_of, model_of, names_of, with_quality
from edgedepot.cli.target import FILE, open_store
from edgedepot.storage.interval import seconds_of, zone_of

if TYPE_CHECKING:
    from edgedepot.storage.reading import Reading
    from edgedepot.storage.sqlite.storage import SQLiteStorage

LOOK_BACK = timedelta(seconds=30)
"""Devices' clocks differ, and some send late: so far behind the newest reading, others that come are still shown."""
_Row = dict[str, Any]
_Found = tuple["type[Reading]", list[str], _Row]


@click.command(
    epilog="""\b
Examples:
  edgedepot tail gateway.toml
  edgedepot tail gateway.toml weatherstation --device mast -n 100
  edgedepot tail gateway.toml weatherstation --json | jq .temperature"""
)
@FILE
@click.argument("model", required=False)
@click.option(
    "--lines", "-n", type=click.IntRange(0), default=10, show_default=True, help="Begin with so many readings."
)
@click.option("--device", metavar="ID", help="Only this device.")
@click.option("--fields", metavar="A,B", help="Only these fields of MODEL (quality is one too).")
@click.option("--tz", metavar="ZONE", default="UTC", help="Zone of the times shown.  [default: UTC]")
@click.option("--every", metavar="DURATION", default="1s", show_default=True, help="How often to look for new ones.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def tail(
    file: Path,
    model: str | None,
    lines: int,
    device: str | None,
    fields: str | None,
    tz: str,
    every: str,
    as_json: bool,
) -> None:
    """Show new readings as they come.

    Of MODEL or of all models, until Ctrl-C. Reads beside the gateway, and only when its store has changed. A
    reading that is merged with a later one is shown again. One whose time lies more than 30 seconds before the
    newest of its model does not appear here: `query` has it. A flagged reading shows its quality.
    """
    if fields is not None and model is None:
        raise click.UsageError("--fields goes with MODEL")
    seconds, show = seconds_of(every, "--every"), _Printer(zone_of(tz), as_json)
    with open_store(file) as store, _ending_quietly():
        changes = _Changes(store.path)
        only = None if model is None else model_of(store, model)
        followers = _Followers(store, only, device, names_of(fields), shows_flags=not as_json)
        for found in followers.last(lines):
            show(*found)
        while _wait(seconds):
            if changes.seen():
                for found in followers.new():
                    show(*found)


class _Printer:
    """Writes a reading as a line, at once."""

    def __init__(self, zone: tzinfo, as_json: bool) -> None:
        self._zone = zone
        self._as_json = as_json

    def __call__(self, model: type[Reading], columns: list[str], row: _Row) -> None:
        if self._as_json:
            line = json_of(["model", *columns], {"model": model.__measurement__, **row}, self._zone)
        else:
            units = {spec.name: spec.unit for spec in model.__fields__}
            values = [f"{name}={_value(row[name], units.get(name))}" for name in columns[2:] if row[name] is not None]
            head = (
                f"{cell(row['timestamp'].astimezone(self._zone))}  {model.__measurement__}  {visible(row['device_id'])}"
            )
            line = f"{head}  {'  '.join(values)}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _value(value: Any, unit: str | None) -> str:
    if isinstance(value, str):
        return visible(json.dumps(value, ensure_ascii=False))
    return f"{cell(value)} {unit}" if unit else cell(value)


class _Follower:
    """What is new in one model. Holds the rows of the last `LOOK_BACK`, by which it knows what was shown."""

    def __init__(
        self, store: SQLiteStorage, model: type[Reading], device: str | None, fields: list[str] | None
    ) -> None:
        self.model = model
        self.columns = columns_of(model, fields)
        self._store = store
        self._device = device
        self._fields = fields
        self._newest: datetime | None = None
        self._shown: dict[tuple[datetime, str], _Row] = {}

    def last(self, number: int) -> list[_Row]:
        """The last so many readings, oldest first. All that there are now count as shown."""
        found = self._store.query_readings(self.model, self._device, None, None, self._fields, max(1, number))
        if found:
            self._newest = found[0]["timestamp"]
            deque(self.new(), maxlen=0)
        return found[:number][::-1]

    def new(self) -> Iterator[_Row]:
        """The readings that came or changed since it was asked last, in the order of time."""
        since = None if self._newest is None else _behind(self._newest)
        before, self._shown = self._shown, {}
        for row in self._store.iter_readings(
            self.model, self._device, since, None, self._fields, None, order="timestamp"
        ):
            self._newest = row["timestamp"]
            identity = row["timestamp"], row["device_id"]
            self._shown[identity] = row
            self._forget(_behind(row["timestamp"]))
            if before.get(identity) != row:
                yield row

    def _forget(self, until: datetime) -> None:
        while (oldest := next(iter(self._shown)))[0] < until:
            del self._shown[oldest]


class _Followers:
    """What is new in the one model that was asked for, or in all, also in those that come later."""

    def __init__(
        self,
        store: SQLiteStorage,
        model: type[Reading] | None,
        device: str | None,
        fields: list[str] | None,
        shows_flags: bool,
    ) -> None:
        self._store = store
        self._only = model
        self._device = device
        self._fields = fields
        self._shows_flags = shows_flags
        self._followers: dict[str, _Follower] = {}

    def last(self, number: int) -> list[_Found]:
        """The last so many readings of all together, oldest first."""
        self._look_for_models()
        found = [
            (follower.model, follower.columns, row)
            for follower in self._followers.values()
            for row in follower.last(number)
        ]
        found.sort(key=lambda entry: (entry[2]["timestamp"], entry[2]["device_id"]))
        return found[-number:] if number else []

    def new(self) -> Iterator[_Found]:
        """The readings that came or changed since it was asked last."""
        self._look_for_models()
        for follower in self._followers.values():
            for row in follower.new():
                yield follower.model, follower.columns, row

    def _look_for_models(self) -> None:
        models = self._store.models() if self._only is None else {self._only.__measurement__: self._only}
        for name, model in models.items():
            if name not in self._followers:
                fields = with_quality(model) if self._fields is None and self._shows_flags else self._fields
                self._followers[name] = _Follower(self._store, model, self._device, fields)


class _Changes:
    """Whether a store's file was written, as the file system tells: a store at rest costs no query."""

    def __init__(self, path: Path) -> None:
        self._files = (path, path.with_name(path.name + "-wal"))
        self._last = self._state()

    def seen(self) -> bool:
        """Whether there was one since it was asked last."""
        before, self._last = self._last, self._state()
        return before != self._last

    def _state(self) -> list[tuple[int, int]]:
        return [_written(file) for file in self._files]


def _written(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _behind(moment: datetime) -> datetime:
    """`LOOK_BACK` before a moment, or before now where that lies in the future: one device's clock that is ahead must
    not hide the others."""
    moment = min(moment, datetime.now(UTC))
    return moment - LOOK_BACK if moment.year > 1 else moment


def _wait(seconds: float) -> bool:
    """Wait so long; False at once when nobody reads what is written."""
    closed = select.poll()
    closed.register(sys.stdout.fileno(), 0)
    return not closed.poll(seconds * 1000)


@contextlib.contextmanager
def _ending_quietly() -> Iterator[None]:
    """Ctrl-C and a closed pipe are how this ends."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
