"""`edgedepot plan`: what a gateway will need of its disk, its link and its card."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgedepot.cli.measured import KINDS, Upstream, chosen, fields_of, measure, settings_of
from edgedepot.cli.output import duration, size, terminal_width
from edgedepot.storage.buffer import EVERYTHING
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.sqlite.limits import LEAST
from edgedepot.sync.limits import read_rate, read_size

if TYPE_CHECKING:
    from edgedepot.plan import Kind, Load, Plan, Way


_NARROW = 20  # columns: no text is wrapped to fewer
_TOGETHER = 0.8
"""Of the commits that there would be if readings came one after the other: with fewer, they come together."""
_MOST = 1_000_000
"""Devices, or models: no gateway has more."""
_SERVERS: Mapping[Kind, str] = {"timescale": "TimescaleDB", "influxdb": "InfluxDB"}


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
@click.option("--devices", type=click.IntRange(1, _MOST), help="How many devices, where there is no FILE.")
@click.option("--every", help='How often each sends a reading: "5s", "1 minute".')
@click.option(
    "--fields", help='How many numbers with decimals a reading has, or each one\'s type: "float,bool,str:12".'
)
@click.option("--models", type=click.IntRange(1, _MOST), help="Of how many reading models the devices are; 1 if not.")
@click.option("--flush", help="The store's flush_interval; 1s if not.")
@click.option(
    "--upstream", help="Where readings go: timescale, influxdb, or the name of one in FILE; else to all of these."
)
@click.option("--disk", help="Room for the store; with FILE keep_bytes or what the disk has for it, else 2 GB.")
@click.option("--link", help="What the link carries; max_rate of FILE, or 1 MB/s if not.")
@click.option("--outage", default="24h", show_default=True, help="An outage to catch up after.")
@click.option("--tls/--no-tls", default=None, help="Whether with TLS; as the urls in FILE say, else without.")
@click.option("--card-tbw", type=click.FloatRange(min=0.001), help="Terabytes that the card may be written; 16 if not.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def plan(file: Path | None, as_json: bool, **given: Any) -> None:
    """Work out what disk, link and card bear, and for how long.

    From the readings of the last hour in the store of FILE and, where that is a gateway's TOML, from its settings and
    what its upstreams may cost; or before anything is installed from --devices, --every and --fields.

    The disk is full of history most of the time, where keep_bytes is set. In an outage history goes first, in the end
    also of readings that wait; the outage that the disk holds is over when the oldest of these have to be thinned.

    Estimates, within some 10 % of disk and wire and 20 % of the card, for floats of two decimals; a month has 30 days.
    The card's rating, unless given, is that of one of 32 GB made for surveillance; ordinary cards may take far less.
    """
    from edgedepot.plan import plan as work_out

    asked = _described(given) if file is None else _measured(file, given)
    found = work_out(asked.load, asked.sent)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        _print(asked, found)


class _Asked(NamedTuple):
    """The load; for each upstream the same with its settings and the fields of what it gets; what to say of any."""

    load: Load
    sent: Mapping[str, Load]
    notes: Sequence[str] = ()


def _described(given: Mapping[str, Any]) -> _Asked:
    missing = [f"--{name}" for name in ("devices", "every", "fields") if given[name] is None]
    if missing:
        raise InvalidValue(f"expected FILE, or {', '.join(missing)} too")
    if given["upstream"] not in (None, *KINDS.values()):
        raise InvalidValue(f"--upstream: found {given['upstream']!r}, expected timescale or influxdb")
    devices, models = given["devices"], given["models"] or 1
    found = {"rate": devices / seconds_of(given["every"], "--every"), **fields_of(given["fields"])}
    load = _load(given, {**found, "devices": devices, "series": devices, "models": min(models, devices)})
    return _Asked(load, {load.upstream: load})


def _measured(file: Path, given: Mapping[str, Any]) -> _Asked:
    if any(given[name] is not None for name in ("devices", "every", "fields", "models")):
        raise InvalidValue("expected FILE, or --devices, --every, --fields and --models, not both")
    from edgedepot.plan import FLUSH

    rates, room = measure(file)
    settings = settings_of(file, given["upstream"], given["tls"])
    found = {**settings.store, "rate": rates.rate, "devices": len(rates.series)}
    found |= {"keeps": "disk" in found, "disk": room.within(found.get("disk"), found.get("age"))}
    found["kept"] = rates.kept
    load = _load(given, found | rates.shape(rates.series)._asdict())
    flush, own = load.flush, found.get("flush", FLUSH)
    load = replace(load, committed=rates.commits(rates.series, flush, own))
    sent: dict[str, Load] = {}
    notes = [*rates.notes, *settings.notes]
    if load.kept and not load.keeps:
        notes.append("What is kept downsampled takes room beside that, which is not counted: there is no keep_bytes.")
    if not settings.upstreams and given["upstream"] is None:
        server = _SERVERS[load.upstream]
        notes.append(f"No upstream that is known is in {file}: counted as if all went to {server} (--upstream).")
    for name, one in (settings.upstreams or {load.upstream: Upstream(EVERYTHING, {})}).items():
        taken = chosen(rates, one.choice)
        if taken:
            its: dict[str, Any] = {"share": sum(taken.values()) / rates.rate, "series": len(taken)}
            its |= {"models": len({measurement for measurement, _ in taken}), **rates.shape(taken)._asdict()}
            its |= {"committed": load.committed, "parts": rates.parts(taken, flush, own)}
            sent[name] = _load(given, {**found, **its, **one.settings})
        else:
            notes.append(f"upstream {name} got no reading within the last hour, and is not counted.")
    if not sent:
        raise InvalidValue(f"{file}: " + " ".join(notes))
    return _Asked(load, sent, notes)


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
        if (asked["disk"] or 0) < LEAST:
            raise ConfigError(
                f'--disk: found {given["disk"]!r}, expected a size such as "2 GB", at least {LEAST} bytes'
            )
    if given["link"] is not None:
        asked["link"] = read_rate(given["link"], "--link")
    if given["card_tbw"] is not None and not math.isfinite(given["card_tbw"]):
        raise ConfigError(f"--card-tbw: found {given['card_tbw']}, expected terabytes, such as 16")
    asked |= {name: given[key] for name, key in (("tbw", "card_tbw"), ("tls", "tls")) if given[key] is not None}
    asked["outage"] = seconds_of(given["outage"], "--outage") / 3600
    return Load(**{**found, **asked})


def _print(asked: _Asked, found: Plan) -> None:
    load, rate, share = asked.load, found.readings_per_second, found.card_share_per_year
    rows = [
        (
            "load",
            f"{rate:,.0f} readings/s" if rate >= 100 else f"{rate:.3g} readings/s",
            f"{_plural(round(load.fields, 1), 'value')} each, {_commits(load)}",
        ),
        (
            "outage that the disk holds",
            duration(found.outage_hours * 3600),
            f"{size(round(load.disk))}; {_full(load, found.outage_hours)}",
        ),
        (
            "until its history goes" if load.keeps or load.age else "with all its history",
            duration(found.history_hours * 3600),
            f"{found.store_bytes_per_reading:.0f} bytes a reading"
            + (", beside what is kept downsampled" if load.kept and load.keeps else ""),
        ),
        ("to the card", f"{size(round(found.card_bytes_per_day))} a day", ""),
        (
            "of the card's rated writes",
            f"{share:.1%} a year" if share < 10 else f"{share:,.0f} times a year",
            f"{load.tbw:g} TB; --card-tbw for yours",
        ),
        *_ways(asked.sent, found),
    ]
    for line in _lines(rows, terminal_width()):
        click.echo(line)
    for note in asked.notes:
        click.echo(note)


def _plural(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _commits(load: Load) -> str:
    """How often that is, of readings that come together no more often than these do."""
    if load.committed < _TOGETHER * min(1 / load.flush, load.rate):
        return f"which come together: a commit every {duration(1 / load.committed)}"
    return f"commit every {load.flush:g} s" if load.rate >= 1 / load.flush else "committed one by one"


def _full(load: Load, hours: float) -> str:
    """What happens after so many."""
    if load.loses and load.age is not None and hours * 3600 >= load.age:
        return "then the oldest go (keep)"
    if not load.keeps:
        return "without keep_bytes"
    return "then no more is taken" if load.blocks else "then thinning begins"


def _ways(sent: Mapping[str, Load], found: Plan) -> Iterator[tuple[str, str, str]]:
    """Rows on what goes out; where there are several upstreams of each one, and of all."""
    month, later = "on the wire", f"to catch up after {_plural(found.outage_asked, 'hour')}"
    if len(sent) == 1:
        ((name, one),) = sent.items()
        server = _SERVERS[one.upstream]
        yield month, _month(found), f"to {server if name == one.upstream else f'{name} ({server})'} {_how(one)}"
        yield later, *_later(one, found.catch_up_seconds)
        return
    yield month, "", ""
    for name, one in sent.items():
        yield f"  to {name}", _month(found.upstreams[name]), f"{_SERVERS[one.upstream]} {_how(one)}"
    yield "  to all together", _month(found), ""
    yield later, "", ""
    for name, one in sent.items():
        yield f"  {name}", *_later(one, found.upstreams[name].catch_up_seconds)


def _month(found: Plan | Way) -> str:
    return f"{size(round(found.wire_bytes_per_month))} a month"


def _how(sent: Load) -> str:
    averages = f", {duration(sent.every)} averages" if sent.every else ""
    return f"{'with' if sent.tls else 'without'} TLS{averages}"


def _later(sent: Load, seconds: float | None) -> tuple[str, str]:
    """How long to catch up, and what an upstream's readings have to go through."""
    parts = [f"{size(round(sent.link))} a second"]
    parts += [f"{size(round(sent.per_day))} a day"] if sent.per_day else []
    parts += [f"open {sent.open:.0%} of the day"] if sent.open < 1 else []
    way = ", ".join(parts)
    return ("never", f"too little: {way}") if seconds is None else (duration(seconds), f"over a link of {way}")


def _lines(rows: Sequence[tuple[str, str, str]], width: int) -> Iterator[str]:
    """The rows in columns, of which the third goes on below itself where it is too wide."""
    first, second = (max(len(row[column]) for row in rows) + 2 for column in (0, 1))
    for name, figure, more in rows:
        head = f"{name:<{first}}{figure:<{second}}"
        for line in textwrap.wrap(more, max(_NARROW, width - len(head))) or [""]:
            yield (head + line).rstrip()
            head = " " * len(head)
