"""One site: devices, broker, serial line, gateway, link and database, wired together for one run."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psycopg

from tests.end_to_end import judge
from tests.end_to_end.devices import MqttFleet, SerialDevice, as_csv, as_json
from tests.end_to_end.faults import Fault, Saboteur
from tests.end_to_end.gateway_process import PORT_OPEN, SUBSCRIBED, GatewayProcess, Settings
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.servers.proxy import TcpProxy
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer

PATIENCE = 30.0
"""Seconds without a new row upstream after which what is missing is taken for lost."""


@dataclass(frozen=True)
class Load:
    """How much the devices send, undecodable messages and lines on top, and over how many seconds."""

    devices: int
    messages: int
    broken_messages: int
    lines: int
    broken_lines: int
    duration: float
    seed: int = 0


@dataclass(frozen=True)
class Servers:
    """The real ones around the gateway, all running; `url` is a fresh database, which the gateway reaches by `link`."""

    broker: Mosquitto
    ports: PtyPair
    database: TimescaleServer
    url: str
    link: TcpProxy


@dataclass
class Site:
    """As a context manager it sees to it that everything it started ends."""

    servers: Servers
    folder: Path
    load: Load
    line_format: str = "csv"
    broker_kills: list[judge.BrokerKill] = field(default_factory=list)

    def __post_init__(self) -> None:
        servers, load = self.servers, self.load
        upstream = servers.url.replace(f":{servers.database.port}/", f":{servers.link.port}/")
        settings = Settings(servers.broker.url, servers.ports.device, upstream, self.line_format)
        self.gateway = GatewayProcess(self.folder, settings)
        self.fleet = MqttFleet(
            servers.broker.port, load.devices, load.messages, load.duration, broken=load.broken_messages, seed=load.seed
        )
        self.mast = SerialDevice(
            servers.ports.peer,
            load.lines,
            load.duration,
            encode={"csv": as_csv, "json": as_json}[self.line_format],
            broken=load.broken_lines,
            seed=load.seed,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            closing.callback(self.gateway.close)
            closing.callback(self.mast.close)
            closing.callback(self.fleet.close)

    def run(self, plan: Sequence[Fault]) -> list[tuple[float, str]]:
        """Start the gateway, send the load, carry out the plan meanwhile; then wait until all has arrived upstream.
        Returns the faults that happened as (seconds since the load began, name)."""
        self.gateway.start()
        self.gateway.wait_for_log(SUBSCRIBED)
        self.gateway.wait_for_log(PORT_OPEN)
        saboteur = Saboteur(plan, self.progress, self.actions())
        began = time.monotonic()
        self.fleet.start()
        self.mast.start()
        saboteur.start()
        try:
            done = saboteur.join(self.load.duration * 3)
            assert self.progress() < 1, "the load was over before the last fault"
        finally:
            saboteur.stop()
        wait_until(lambda: self.mast.finished, "the serial device has sent all lines", 60)
        wait_until(lambda: self.fleet.all_acknowledged, "the broker has acknowledged all messages", 60)
        self._wait_until_arrived()
        return [(moment - began, name) for moment, name in done]

    def progress(self) -> float:
        """The fraction of the load that has been sent."""
        return (self.fleet.done + self.mast.done) / (self.fleet.total + self.mast.total)

    def actions(self) -> Mapping[str, Callable[[], None]]:
        """What a plan's names mean here."""
        servers = self.servers
        return {
            "kill gateway": self.gateway.kill,
            "start gateway": self._start_gateway,
            "kill database": servers.database.kill,
            "start database": servers.database.start,
            "kill broker": servers.broker.kill,
            "start broker": self._start_broker,
            "cut link": servers.link.cut,
            "mend link": servers.link.mend,
        }

    def sent(self) -> judge.Sent:
        """What was sent, for the judge."""
        return judge.Sent(
            self.fleet.messages,
            self.mast.lines,
            self.gateway.outages(PORT_OPEN),
            tuple(self.broker_kills),
        )

    def held(self) -> list[judge.Held]:
        """What the database holds; read past the link."""
        return judge.read_table(self.servers.url)

    def _start_gateway(self) -> None:
        self.gateway.start()

    def _start_broker(self) -> None:
        saved = self.servers.broker.saved_state
        now = time.monotonic()
        age = time.time() - saved.stat().st_mtime
        self.broker_kills.append(judge.BrokerKill(saved.read_bytes(), now - age, now))
        self.servers.broker.start()

    def _wait_until_arrived(self) -> None:
        """Return when nothing is missing and nothing pending. Also when nothing has come for a long time: then the
        judge says what is missing."""
        last_held, last_change = -1, time.monotonic()

        def arrived() -> bool:
            nonlocal last_held, last_change
            held = self._held_or_none()
            if len(held) != last_held:
                last_held, last_change = len(held), time.monotonic()
            if judge.judge(self.sent(), held).lost:
                return time.monotonic() - last_change > PATIENCE
            return not self._pending()

        wait_until(arrived, "all has arrived upstream", 120)

    def _held_or_none(self) -> list[judge.Held]:
        try:
            return self.held()
        except psycopg.errors.UndefinedTable:
            return []

    def _pending(self) -> int:
        books = self.gateway.ledger()[1]
        pending: int = books["upstreams"][judge.UPSTREAM]["pending"]
        return pending
