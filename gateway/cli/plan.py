"""`edgedepot plan`: what a gateway will need of its disk, its link and its card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.measured import KINDS, chosen, fields_of, measure, settings_of
from edgedepot.cli.output import duration, size, terminal_width
from edgedepot.storage.base import EVERYTHING
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of
from edgedepot.sync.limits import read_rate, read_size

if TYPE_CHECKING:
    from edgedepot.plan import Load, Plan


_FULL = "it is full, for keep_bytes is not set"


@click.command(
    epilog="""\b
Examples:
  edgedepot plan --devices 20 --every 5s --fields 4
  edgedepot plan --devices 20 --every 5s --fields 4 --flush 10s \\
      --upstream influxdb --disk 8GB
  edgedepot plan --devices 20 --every 5s \\
      --fields float,float,int,bool,str:12 --models 2
  edgedepot plan gateway.toml --outage 72h --link "20 kB/s"
  edgedepot plan gateway.toml --json | jq .outage_hours"""
)
@click.argument("file", type=click.Path(path_type=Path), metavar="[FILE]", required=False)
@click.option("--devices", type=click.IntRange(min=1), help="How many devices, where there is no FILE.")
@click.option("--every", help='How often each sends a reading: "5s", "1 minute".')
@click.option(
    "--fields", help='How many numbers with decimals a reading has, or each one\'s type: "float,bool,str:12".'
)
@click.option("--models", type=click.IntRange(min=1), help="Of how many reading models the devices are; 1 if not.")
@click.option("--flush", help="The store's flush_interval; 1s if not.")
@click.option("--upstream", help="Where readings go: timescale, influxdb, or the name of one in FILE.")
@click.option("--disk", help="Room for the store; with FILE keep_bytes or what the disk has for it, else 2 GB.")
@click.option("--link", help="What the link carries; max_rate of FILE, or 1 MB/s if not.")
@click.option("--outage", default="24h", show_default=True, help="An outage to catch up after.")
@click.option("--card-tbw", type=click.FloatRange(min=0.001), help="Terabytes that the card may be written; 16 if not.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def plan(file: Path | None, as_json: bool, **given: Any) -> None:
    """Work out what disk, link and card bear, and for how long.

    From the readings of the last hour in the store of FILE and, where that is a gateway's TOML, from its settings and
    the limits of an upstream; or before anything is installed from --devices, --every and --fields.

    The disk is full of history most of the time, where keep_bytes is set. In an outage history goes first, in the end
    also of readings that wait; the outage that the disk holds is over when the oldest of these have to be thinned.

    Estimates, within some 10 % of disk and wire and 20 % of the card, for floats of two decimals and without TLS. The
    card's rating, unless given, is that of one of 32 GB made for surveillance; ordinary cards may take far less.
    """
    from edgedepot.plan import plan as work_out

    load, sent, name = (_described(given), None, None) if file is None else _measured(file, given)
    found = work_out(load, sent)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        _print(load, found, name)


def _described(given: Mapping[str, Any]) -> Load:
    missing = [f"--{name}" for name in ("devices", "every", "fields") if given[name] is None]
    if missing:
        raise InvalidValue(f"expected FILE, or {', '.join(missing)} too")
    if given["upstream"] not in (None, *KINDS.values()):
        raise InvalidValue(f"--upstream: found {given['upstream']!r}, expected timescale or influxdb")
    devices, models = given["devices"], given["models"] or 1
    found = {"rate": devices / seconds_of(given["every"], "--every"), **fields_of(given["fields"])}
    return _load(given, {**found, "devices": devices, "series": devices, "models": min(models, devices)})


def _measured(file: Path, given: Mapping[str, Any]) -> tuple[Load, Load, str | None]:
    """The load, the same with the fields of what an upstream gets, and the upstream's name."""
    if any(given[name] is not None for name in ("devices", "every", "fields", "models")):
        raise InvalidValue("expected FILE, or --devices, --every, --fields and --models, not both")
    rates, room = measure(file)
    found = dict(settings_of(file, given["upstream"]))
    name, choice = found.pop("name", None), found.pop("choice", EVERYTHING)
    found["keeps"] = "disk" in found
    found["disk"] = room.within(found.get("disk"))
    taken = chosen(rates, choice)
    if not taken:
        raise InvalidValue(f"{file}: upstream {name} got no reading within the last hour")
    found |= {"rate": rates.rate, "devices": len(rates.series), "share": sum(taken.values()) / rates.rate}
    found |= {"series": len(taken), "models": len({measurement for measurement, _ in taken})}
    load, sent = (_load(given, found | rates.shape(series)._asdict()) for series in (rates.series, taken))
    return load, sent, name


def _load(given: Mapping[str, Any], found: Mapping[str, Any]) -> Load:
    """What is given goes before what was found."""
    from edgedepot.plan import Load

    asked: dict[str, Any] = {}
    if given["flush"] is not None:
        asked["flush"] = seconds_of(given["flush"], "--flush")
    if given["upstream"] in KINDS.values():
        asked["upstream"] = given["upstream"]
    if given["disk"] is not None:
        asked["disk"] = read_size(given["disk"])
        if not asked["disk"]:
            raise ConfigError(f'--disk: found {given["disk"]!r}, expected a size such as "2 GB"')
    if given["link"] is not None:
        asked["link"] = read_rate(given["link"], "--link")
    if given["card_tbw"] is not None:
        asked["tbw"] = given["card_tbw"]
    asked["outage"] = seconds_of(given["outage"], "--outage") / 3600
    return Load(**{**found, **asked})


def _print(load: Load, found: Plan, name: str | None) -> None:
    server = {"timescale": "TimescaleDB", "influxdb": "InfluxDB"}[load.upstream]
    later = "never: more comes in" if found.catch_up_seconds is None else duration(found.catch_up_seconds)
    where = server if name is None else f"{name} ({server})"
    what = f", averages of {duration(load.every)}" if load.every else ""
    rows = [
        (
            "load",
            f"{found.readings_per_second:.3g} readings/s",
            f"{load.fields:.2g} values each, commit every {load.flush:g} s",
        ),
        (
            "outage that the disk holds",
            duration(found.outage_hours * 3600),
            f"{size(round(load.disk))}; then {'the oldest that wait are thinned' if load.keeps else _FULL}",
        ),
        (
            "until history of it goes" if load.keeps else "with all its history",
            duration(found.history_hours * 3600),
            f"{found.store_bytes_per_reading:.0f} bytes a reading",
        ),
        ("on the wire", f"{size(round(found.wire_bytes_per_month))} a month", f"to {where}, 30 days{what}"),
        ("to the card", f"{size(round(found.card_bytes_per_day))} a day", ""),
        (
            "of the card's rated writes",
            f"{found.card_share_per_year:.1%} a year",
            f"{load.tbw:g} TB; --card-tbw for yours",
        ),
        (f"to catch up after {load.outage:g} hours", later, _way(load)),
    ]
    for line in _lines(rows, terminal_width()):
        click.echo(line)


def _lines(rows: Sequence[tuple[str, str, str]], width: int) -> Iterator[str]:
    """The rows in columns; what is too wide in the third goes below the second."""
    first, second = (max(len(row[column]) for row in rows) + 2 for column in (0, 1))
    for name, figure, more in rows:
        line = f"{name:<{first}}{figure:<{second}}{more}".rstrip()
        if len(line) <= width:
            yield line
        else:
            yield f"{name:<{first}}{figure}"
            yield f"{'':<{first}}{more}"


def _way(load: Load) -> str:
    """What an upstream's readings have to go through."""
    parts = [f"over a link of {size(round(load.link))} a second"]
    parts += [f"{size(round(load.per_day))} a day"] if load.per_day else []
    parts += [f"open {load.open:.0%} of the day"] if load.open < 1 else []
    return ", ".join(parts)
