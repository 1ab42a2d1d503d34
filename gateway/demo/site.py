"""Everything that takes part: devices, broker, gateway, link, upstream."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgedepot.demo.broker import Broker
from edgedepot.demo.devices import Bed, Garden, Station, WeatherStation
from edgedepot.demo.link import Link
from edgedepot.drivers.mqtt import MqttDriver
from edgedepot.drivers.serial import SerialLineDriver
from edgedepot.runtime import Gateway
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.errors import Unreachable
from edgedepot.storage.sqlite.storage import SQLiteStorage

STATION_RATE = 20.0
GARDEN_RATE = 80.0
BEDS = 8
LINK_RATE = 250.0
"""Readings a second; what comes in is less than half of that, so that catching up can be watched."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Readings since the start, as the gateway's store and its sync worker have them; and how the worker stands."""

    station: int
    garden: int
    pending: int
    delivered: int
    upstream_state: str
    upstream_error: str | None

    @property
    def stored(self) -> int:
        return self.station + self.garden


class Site:
    """The stage. As a context manager it starts and stops everything; the stores stay in the folder."""

    def __init__(self, folder: Path, upstream: str | None) -> None:
        self.gateway_id = f"demo-{secrets.token_hex(3)}"  # its own: an upstream may hold an earlier demonstration's
        self.path = folder / "gateway.db"
        self.upstream = upstream
        self._copy = folder / "upstream.db"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            broker = opening.enter_context(Broker())
            self.station = opening.enter_context(Station(STATION_RATE))
            self.link = Link(opening.enter_context(self._far_storage()), LINK_RATE)
            self._check_upstream()
            self.gateway = opening.enter_context(self._build(broker))
            self._reader = opening.enter_context(SQLiteStorage(self.path, read_only=True))
            self.garden = opening.enter_context(Garden(broker.port, GARDEN_RATE, BEDS))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _far_storage(self) -> BaseStorage:
        if self.upstream is None:
            return SQLiteStorage(self._copy, gateway_id=self.gateway_id)
        from edgedepot.storage.timescale.storage import TimescaleDBStorage

        return TimescaleDBStorage(self.upstream, gateway_id=self.gateway_id)

    def _check_upstream(self) -> None:
        """Half a minute of waiting for an address that is wrong is no demonstration. Raises `Unreachable`."""
        health = self.link.far.health_check()
        if health["status"] != "pass":
            raise Unreachable(f"the upstream cannot be used: {health['message']}")

    def _build(self, broker: Broker) -> Gateway:
        gateway = Gateway(self.path, gateway_id=self.gateway_id)
        columns = ["temperature", "humidity", "wind"]
        station = SerialLineDriver(self.station.port, WeatherStation, device_id="mast", format="csv", columns=columns)
        gateway.add("station", station)
        gateway.add("garden", MqttDriver(broker.url, "garden/{device_id}/data", Bed, protocol="3.1.1"))
        gateway.forward_to("central", self.link, batch_size=100, backoff=("200 ms", "2s"))
        return gateway

    @property
    def is_ready(self) -> bool:
        """Whether both sources are heard from now on."""
        states = {name: driver["state"] for name, driver in self.gateway.status()["drivers"].items()}
        return states == {"station": "reading", "garden": "connected"}

    @property
    def sent(self) -> int:
        """Good readings, as the devices count them."""
        return self.station.sent + self.garden.sent

    def start_devices(self) -> None:
        self.station.start()
        self.garden.start()

    def stop_devices(self) -> None:
        self.station.stop()
        self.garden.stop()

    def counts(self) -> Counts:
        sources = self._reader.ledger().sources
        central = self.gateway.status()["upstreams"]["central"]
        station, garden = (sources[name]["new"] if name in sources else 0 for name in ("station", "garden"))
        return Counts(
            station, garden, central["pending"], central["delivered"], central["state"], central["last_error"]
        )

    def held(self) -> int:
        """How many readings the upstream holds, as itself says. Raises `UpstreamError`."""
        total = 0
        for model, field in ((WeatherStation, "wind"), (Bed, "light")):
            found = self.link.far.aggregate(model, field, "count")
            assert isinstance(found, dict)
            total += found["result"]
        return total
