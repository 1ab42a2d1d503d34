"""The real servers as fixtures: started when the first test asks, stopped at the end. None is ever skipped: a server
that cannot be had is an error (ServerError) of every test that needs it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from tests.servers.mosquitto import Mosquitto
from tests.servers.proxy import TcpProxy
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer

# How fast examples come depends on the machine's other work: no test judges that. What has to pass before a change
# lands is the same every time (CI is set then); everywhere else, and in `make states`, examples are new ones.
hypothesis.settings.register_profile(
    "edgedepot",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("edgedepot")


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[TimescaleServer]:
    """One TimescaleDB for the whole run. A test that kills it starts it again; `timescale_url` does if it did not."""
    with TimescaleServer() as server:
        yield server


@pytest.fixture
def timescale_url(timescale_server: TimescaleServer) -> Iterator[str]:
    """The address of a fresh database with the extension; it is dropped after the test."""
    if not timescale_server.running:
        timescale_server.start()
    database = timescale_server.create_database()
    yield timescale_server.url(database)
    if timescale_server.running:
        timescale_server.drop_database(database)
        print(timescale_server.log_tail())  # pytest shows it beside a failed test


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    """A fresh broker, running."""
    with Mosquitto() as broker:
        yield broker
        print(broker.log_tail())


@pytest.fixture
def pty_pair() -> Iterator[PtyPair]:
    """A fresh pair of serial ports, plugged in."""
    with PtyPair() as pair:
        yield pair


@pytest.fixture
def proxy() -> Iterator[Callable[[str, int], TcpProxy]]:
    """`proxy(host, port)` puts a running TcpProxy in front of a server, as often as it is called."""
    with ExitStack() as running:
        yield lambda host, port: running.enter_context(TcpProxy(host, port))
