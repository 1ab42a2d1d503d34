"""Two hundred gateways come back to one TimescaleDB at once: all drain, none starves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer

GATEWAYS = 200
PROCESSES = 4
ROWS = 2000
MOST_CONNECTIONS = GATEWAYS
"""One for each gateway: sync writes, and nothing else asks for the second one that a storage may have."""
LIMIT = GATEWAYS + 20
"""Connections that the server gives out: a few are its own."""
SECONDS = 240.0


def start(number: int, folder: Path, url: str) -> subprocess.Popen[str]:
    gateways = list(range(number, GATEWAYS, PROCESSES))
    settings = {"gateways": gateways, "folder": str(folder), "url": url, "rows": ROWS, "seconds": SECONDS}
    command = [sys.executable, "-m", "tests.sync.gateways_child", json.dumps(settings)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_all_drain_and_none_starves(tmp_path: Path) -> None:
    with TimescaleServer(settings={"max_connections": str(LIMIT)}) as server:
        database = server.create_database()
        with TcpProxy("127.0.0.1", server.port) as link:
            url = server.url(database).replace(f":{server.port}/", f":{link.port}/")
            link.cut()
            children = [start(number, tmp_path, url) for number in range(PROCESSES)]
            try:
                for child in children:
                    assert child.stdout is not None
                    assert child.stdout.readline() == "away\n"
                link.mend()
                for child in children:
                    assert child.stdin is not None
                    print("go", file=child.stdin, flush=True)
                most = watch_connections(server.url(database), children)
                found = [json.loads(child.communicate(timeout=SECONDS)[0]) for child in children]
            finally:
                for child in children:
                    child.kill()
                    child.wait()
        check(server.url(database), found, most)


def watch_connections(url: str, children: list[subprocess.Popen[str]]) -> int:
    """The greatest number of connections seen to the database, until the first process has ended."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgedepot'"
    most = 0
    with psycopg.connect(url, autocommit=True) as connection:
        while all(child.poll() is None for child in children):
            row = connection.execute(query).fetchone()
            most = max(most, row[0] if row else 0)
            threading.Event().wait(0.05)
    return most


def check(url: str, found: list[dict[str, Any]], most: int) -> None:
    ended = {name: seconds for child in found for name, seconds in child["ended"].items()}
    tries = sorted(number for child in found for number in child["tries"])
    times = sorted(ended.values())
    print(
        f"{len(ended)} drained in {times[-1]:.1f} s, half in {times[GATEWAYS // 2]:.1f} s; {most} connections;"
        f" requests {tries[0]} to {tries[-1]}"
    )
    assert len(ended) == GATEWAYS
    assert all(child["balanced"] for child in found)
    assert most <= MOST_CONNECTIONS
    assert times[-1] <= 2 * times[GATEWAYS // 2] + 5, "somebody waits until the others are done"
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT count(*), sum(temperature) FROM weather GROUP BY gateway_id").fetchall()
    assert rows == [(ROWS, float(sum(range(ROWS))))] * GATEWAYS
