"""`edgedepot devices`: who has sent readings, and since when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedepot.cli.output import console, escape, table, visible
from edgedepot.cli.target import FILE, open_store
from edgedepot.storage.interval import zone_of
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.storage.reading import Device


@click.command(
    epilog="""\b
Examples:
  edgedepot devices gateway.toml
  edgedepot devices gateway.db --tz Europe/Zurich
  edgedepot devices gateway.db --json | jq -r '.[].device_id'"""
)
@FILE
@click.option("--tz", metavar="ZONE", default="UTC", help="Zone of the times shown.  [default: UTC]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def devices(file: Path, tz: str, as_json: bool) -> None:
    """Show the devices: id, name, metadata, first and last seen.

    First and last seen are the times of a device's oldest and newest reading in the store.
    """
    zone = zone_of(tz)
    with open_store(file) as store:
        found = [_in_zone(device, zone) for device in store.devices()]
    if as_json:
        lines = (json.dumps(_plain(device), ensure_ascii=False) for device in found)
        click.echo("[" + ",\n ".join(lines) + "]")
    else:
        _print_devices(found)


def _in_zone(device: Device, zone: tzinfo) -> Device:
    first, last = (None if seen is None else seen.astimezone(zone) for seen in (device.first_seen, device.last_seen))
    return replace(device, first_seen=first, last_seen=last)


def _plain(device: Device) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "name": device.name,
        "first_seen": device.first_seen.isoformat() if device.first_seen else None,
        "last_seen": device.last_seen.isoformat() if device.last_seen else None,
        "metadata": dict(device.metadata),
    }


def _print_devices(devices: Sequence[Device]) -> None:
    has_names = any(device.name for device in devices)
    has_metadata = any(device.metadata for device in devices)
    heads = ["device", *(["name"] if has_names else []), "first seen", "last seen"]
    heads += ["metadata"] if has_metadata else []
    grid = table(heads, left=len(heads))
    for device in devices:
        cells = [visible(device.device_id)]
        cells += [visible(device.name or "")] if has_names else []
        cells += [_time(device.first_seen), _time(device.last_seen)]
        cells += [_metadata(device)] if has_metadata else []
        grid.add_row(*map(escape, cells))
    screen = console()
    screen.print(grid)
    screen.print(f"[dim]{counted(len(devices), 'device')}[/]")


def _time(seen: datetime | None) -> str:
    return "never" if seen is None else seen.isoformat(timespec="seconds")


def _metadata(device: Device) -> str:
    """``height=10 where="the roof"``."""
    return visible(
        " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in device.metadata.items())
    )
