"""`edgedepot plan`: what a gateway will need of its disk, its link and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.output import console, duration, size, table
from edgedepot.cli.target import is_toml, open_store
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of
from edgedepot.sync.limits import read_rate, read_size

if TYPE_CHECKING:
    from edgedepot.plan import Kind, Load, Plan
    from edgedepot.storage.sqlite.storage import SQLiteStorage

_SPAN = timedelta(hours=1)
_KINDS: Mapping[str, Kind] = {"timescaledb": "timescale", "influxdb": "influxdb"}


@click.command(
    epilog="""\b
Examples:
  edgedepot plan --devices 20 --every 5s --fields 4
  edgedepot plan --devices 20 --every 5s --fields 4 --flush 10s --upstream influxdb --disk 8GB
  edgedepot plan gateway.toml --outage 72h --link "20 kB/s"
  edgedepot plan gateway.toml --json | jq .outage_hours"""
)
@click.argument("file", type=click.Path(path_type=Path), metavar="[FILE]", required=False)
@click.option("--devices", type=click.IntRange(min=1), help="How many devices, where there is no FILE.")
@click.option("--every", help='How often each sends a reading: "5s", "1 minute".')
@click.option("--fields", type=click.IntRange(min=1), help="How many values a reading has.")
@click.option("--flush", default="1s", show_default=True, help="The store's flush_interval.")
@click.option("--upstream", type=click.Choice(["timescale", "influxdb"]), help="Where readings go.")
@click.option("--disk", help="Room for the store; with FILE what is free, else 2 GB.")
@click.option("--link", default="1 MB/s", show_default=True, help="What the link carries, or max_rate.")
@click.option("--outage", default="24h", show_default=True, help="An outage to catch up after.")
@click.option("--card-tbw", type=click.FloatRange(min=0.001), help="Terabytes that the card may be written; 16 if not.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def plan(file: Path | None, as_json: bool, **given: Any) -> None:
    """Work out how long an outage the disk holds, and what the link and the card bear.

    From the readings of the last hour in the store of FILE, or before anything is installed from --devices, --every and
    --fields. Estimates within some 10 %, for numbers with two decimals, without TLS. The card's rating, unless given,
    is that of a 32 GB card made for surveillance; ordinary cards may take far less.
    """
    from edgedepot.plan import plan as work_out

    load = _described(given) if file is None else _measured(file, given)
    found = work_out(load)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        _print(load, found)


def _described(given: Mapping[str, Any]) -> Load:
    missing = [f"--{name}" for name in ("devices", "every", "fields") if given[name] is None]
    if missing:
        raise InvalidValue(f"expected FILE, or {', '.join(missing)} too")
    rate = given["devices"] / seconds_of(given["every"], "--every")
    return _load(given, rate, given["fields"], None, 2e9)


def _measured(file: Path, given: Mapping[str, Any]) -> Load:
    if any(given[name] is not None for name in ("devices", "every", "fields")):
        raise InvalidValue("expected FILE, or --devices, --every and --fields, not both")
    with open_store(file) as store:
        rate, fields = _rates(store)
        free = _room(store.path)
    if not rate:
        raise InvalidValue(f"{file}: no reading came within the last hour; expected --devices, --every and --fields")
    return _load(given, rate, fields, _kind(file), free)


def _rates(store: SQLiteStorage) -> tuple[float, float]:
    """Readings a second of the last hour, or of the part of it since the first; and how many values each has."""
    end = datetime.now(UTC)
    start, count, values = end - _SPAN, 0, 0
    seen = [device.first_seen for device in store.devices() if device.first_seen]
    start = max(start, min(seen, default=start))
    for model in store.models().values():
        counts = [_count(store, model, spec.name, start, end) for spec in model.__fields__]
        count += max(counts, default=0)
        values += sum(counts)
    seconds = max(1.0, (end - start).total_seconds())
    return count / seconds, values / count if count else 0.0


def _count(store: SQLiteStorage, model: Any, field: str, start: datetime, end: datetime) -> int:
    found = store.aggregate(model, field, "count", start=start, end=end)
    assert isinstance(found, dict)
    return int(found["result"])


def _room(path: Path) -> float:
    """What is free beside the store, and what it has already."""
    import shutil

    return float(shutil.disk_usage(path.parent).free)


def _kind(file: Path) -> Kind | None:
    if not is_toml(file):
        return None
    from edgedepot.config import load

    kinds = [_KINDS[part.kind] for part in load(file).upstreams.values() if part.kind in _KINDS]
    return kinds[0] if kinds else None


def _load(given: Mapping[str, Any], rate: float, fields: float, kind: Kind | None, disk: float) -> Load:
    from edgedepot.plan import CARD_TBW, Load

    asked = None if given["disk"] is None else read_size(given["disk"])
    if given["disk"] is not None and not asked:
        raise ConfigError(f'--disk: found {given["disk"]!r}, expected a size such as "2 GB"')
    return Load(
        rate,
        fields,
        seconds_of(given["flush"], "--flush"),
        given["upstream"] or kind or "timescale",
        asked or disk,
        read_rate(given["link"], "--link"),
        given["card_tbw"] or CARD_TBW,
        seconds_of(given["outage"], "--outage") / 3600,
    )


def _print(load: Load, found: Plan) -> None:
    grid = table(["", "", ""], left=3)
    grid.show_header = False
    server = {"timescale": "TimescaleDB", "influxdb": "InfluxDB"}[load.upstream]
    later = "never: more comes in" if found.catch_up_seconds is None else duration(found.catch_up_seconds)
    rate = f"{found.readings_per_second:.3g} readings a second"
    grid.add_row("load", rate, f"{load.fields:.2g} values each, committed every {load.flush:g} s")
    grid.add_row(
        "outage that the disk holds",
        duration(found.outage_hours * 3600),
        f"{size(round(load.disk))}, {found.store_bytes_per_reading:.0f} bytes a reading",
    )
    grid.add_row("on the wire", f"{size(round(found.wire_bytes_per_month))} a month", f"to {server}, 30 days")
    grid.add_row("to the card", f"{size(round(found.card_bytes_per_day))} a day", "")
    grid.add_row(
        "of the card's rated writes",
        f"{found.card_share_per_year:.1%} a year",
        f"{load.tbw:g} TB; --card-tbw for yours",
    )
    grid.add_row(f"to catch up after {load.outage:g} hours", later, f"over a link of {size(round(load.link))} a second")
    console().print(grid)
