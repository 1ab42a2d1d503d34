"""Which readings a command means: its model, device and stretch of time, from options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import click

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import seconds_of, zone_of
from edgedepot.storage.registry import did_you_mean

if TYPE_CHECKING:
    from edgedepot.storage.reading import Reading
    from edgedepot.storage.sqlite.storage import SQLiteStorage

TIMES = """\
Times are ISO 8601. One without a zone is taken in --tz, which then has to be given. Ranges are half-open: the
start belongs to them, the end does not."""
_OPTIONS = (
    click.option("--device", metavar="ID", help="Only this device."),
    click.option("--start", metavar="TIME", help="From this time on."),
    click.option("--end", metavar="TIME", help="Before this time."),
    click.option("--last", metavar="DURATION", help="From so long ago on: 10m, 2h, 7d."),
    click.option(
        "--tz", metavar="ZONE", help="Zone of the times given and shown, such as Europe/Zurich.  [default: UTC]"
    ),
)


@dataclass(frozen=True, slots=True)
class Span:
    """Whose readings, from when to when, and in which zone times are shown. Aware datetimes, None for open."""

    device: str | None
    start: datetime | None
    end: datetime | None
    tz: str

    @property
    def zone(self) -> tzinfo:
        return zone_of(self.tz)


def span_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --device, --start, --end, --last and --tz; it gets them, checked, as the one parameter `span`."""

    @functools.wraps(command)
    def with_span(
        *arguments: Any,
        device: str | None,
        start: str | None,
        end: str | None,
        last: str | None,
        tz: str | None,
        **more: Any,
    ) -> None:
        if last is not None and (start is not None or end is not None):
            raise click.UsageError("--last goes neither with --start nor with --end")
        zone_of(tz or "UTC")
        since, until = read_time("--start", start, tz), read_time("--end", end, tz)
        if since is not None and until is not None and since >= until:
            raise InvalidValue(f"--end: {end} is not after --start, {start}")
        command(*arguments, span=Span(device, _since(last) if last else since, until, tz or "UTC"), **more)

    for option in reversed(_OPTIONS):
        with_span = option(with_span)
    return with_span


def read_time(option: str, text: str | None, tz: str | None) -> datetime | None:
    """A time of the command line. Without a zone it is taken in --tz, and refused where that is not given."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidValue(f'{option}: found "{text}", expected a time such as 2026-01-31T12:00:00+01:00') from exc
    if moment.tzinfo is not None:
        return moment
    if tz is None:
        raise InvalidValue(f'{option}: "{text}" has no zone: write {moment.isoformat()}Z or the like, or give --tz')
    return moment.replace(tzinfo=zone_of(tz))


def _since(last: str) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds_of(last, "--last"))


def model_of(store: SQLiteStorage, name: str) -> type[Reading]:
    """The model of that name that the store has readings of. Raises `InvalidValue` that lists those there are."""
    models = store.models()
    if name.lower() in models:
        return models[name.lower()]
    known = ", ".join(sorted(models)) or "none, as there is no reading yet"
    raise InvalidValue(f'{store.path}: no model "{name}"{did_you_mean(name, models)}; there are: {known}')


def unknown_device(store: SQLiteStorage, device: str) -> str | None:
    """What to say of a device that the store has never had a reading of; None where it had one."""
    known = [one.device_id for one in store.devices()]
    return None if device in known else f'{store.path}: no device "{device}"{did_you_mean(device, known)}'


def check_device(store: SQLiteStorage, device: str) -> None:
    """Raise `InvalidValue` where the store has never had a reading of that device."""
    if problem := unknown_device(store, device):
        raise InvalidValue(problem)


def names_of(fields: str | None) -> list[str] | None:
    """The names of a list such as ``temperature,humidity``."""
    return [name.strip() for name in fields.split(",")] if fields else None


def with_quality(model: type[Reading]) -> list[str]:
    """All fields of a model, and `quality`: for people, who are shown it where a reading is flagged."""
    return [*(spec.name for spec in model.__fields__), "quality"]


def columns_of(model: type[Reading], fields: list[str] | None) -> list[str]:
    """The columns of an answer: device, time, and the fields asked for or all."""
    names = fields or [spec.name for spec in model.__fields__]
    return ["device_id", "timestamp", *dict.fromkeys(name for name in names if name not in ("device_id", "timestamp"))]
