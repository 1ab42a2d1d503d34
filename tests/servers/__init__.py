"""The real servers that the tests use: fetched, started and stopped by plain code.

    packages.py     Debian packages by name, unpacked into `.servers/` (sources.py: from which archive)
    process.py      start, wait until ready, stop, kill; keeper.py sees to it that no server outlives its test run
    folders.py      a working folder per running server, removed afterwards
    timescale.py    PostgreSQL 17 with TimescaleDB, and PostgreSQL 15 without, each in a chroot
    pgbouncer.py    a pooler in front of either
    pglite.py       the community edition of TimescaleDB, in Node
    mosquitto.py    an MQTT broker
    influxdb1.py    InfluxDB 1.6; victoria.py: VictoriaMetrics
    flux.py         the Flux analyser, which runs in Node (node.py: Node.js and npm packages)
    socat.py        a pair of serial ports that can be unplugged
    proxy.py        a TCP link that can be cut, silenced, or made to lose an answer

`python -m tests.servers fetch` fetches all of them; a test asks for one through a fixture of `tests/conftest.py`.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".servers"
"""Where everything fetched lies. It ignores itself in git and may be deleted at any time nothing runs from it."""


class ServerError(Exception):
    """A server cannot be had, or does not do what it was told. The text says which, and what would be right."""
