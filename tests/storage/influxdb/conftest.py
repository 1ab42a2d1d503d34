"""The servers that InfluxDBStorage is tested against."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from edgedepot import InfluxDBStorage
from tests.servers.flux import FluxAnalyser
from tests.servers.influxdb1 import InfluxDB1
from tests.servers.victoria import VictoriaMetrics
from tests.storage.influxdb.scripted import BUCKET, ORG, TOKEN, ScriptedInfluxDB

Connect = Callable[..., InfluxDBStorage]


@pytest.fixture
def server() -> Iterator[ScriptedInfluxDB]:
    """An InfluxDB 2 that does as it is told."""
    with ScriptedInfluxDB() as server:
        yield server


@pytest.fixture
def connect(server: ScriptedInfluxDB) -> Iterator[Connect]:
    """`connect(**settings)` makes a storage for the scripted server; the settings override what fits it."""
    with ExitStack() as open_storages:

        def connected(**settings: Any) -> InfluxDBStorage:
            fitting = {"url": server.url, "token": TOKEN, "org": ORG, "bucket": BUCKET, "gateway_id": "roof"}
            return open_storages.enter_context(InfluxDBStorage(**fitting | settings))

        yield connected


@pytest.fixture
def storage(connect: Connect) -> InfluxDBStorage:
    """A storage for the scripted server."""
    return connect()


@pytest.fixture(scope="session")
def victoria_metrics() -> Iterator[VictoriaMetrics]:
    """One VictoriaMetrics for the whole run."""
    with VictoriaMetrics() as server:
        yield server


@pytest.fixture(scope="session")
def influxdb1() -> Iterator[InfluxDB1]:
    """One InfluxDB 1 for the whole run."""
    with InfluxDB1() as server:
        yield server


@pytest.fixture(scope="session")
def analyser() -> Iterator[FluxAnalyser]:
    """The analyser of Flux's language server."""
    with FluxAnalyser() as analyser:
        yield analyser
