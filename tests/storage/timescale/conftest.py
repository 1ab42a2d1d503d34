"""The storage under test, on a fresh database, and a second pair of eyes on that database."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from edgedepot import TimescaleDBStorage
from tests.servers.timescale import TimescaleServer

Look = Callable[..., list[tuple[Any, ...]]]
Connect = Callable[..., TimescaleDBStorage]


# Dropping the tables of the test before takes a tenth of the time of a new database.
_DROP_TABLES = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DROP TABLE public.%I CASCADE', name);
    END LOOP;
END $$
"""


@pytest.fixture(scope="module")
def database(timescale_server: TimescaleServer) -> Iterator[str]:
    if not timescale_server.running:
        timescale_server.start()
    name = timescale_server.create_database()
    yield timescale_server.url(name)
    timescale_server.drop_database(name)


@pytest.fixture
def timescale_url(timescale_server: TimescaleServer, database: str) -> Iterator[str]:
    """The address of a database with the extension and without tables."""
    if not timescale_server.running:
        timescale_server.start()
    with psycopg.connect(database) as connection:
        connection.execute(_DROP_TABLES)
    yield database
    print(timescale_server.log_tail())  # pytest shows it beside a failed test


@pytest.fixture
def connect(timescale_url: str) -> Iterator[Connect]:
    """`connect(gateway_id="roof", url=..., ...)` makes a storage, as often as it is called; all are closed at last."""
    with ExitStack() as opened:

        def make(gateway_id: str | None = "roof", url: str = timescale_url, **settings: Any) -> TimescaleDBStorage:
            return opened.enter_context(TimescaleDBStorage(url, gateway_id=gateway_id, **settings))

        yield make


@pytest.fixture
def storage(connect: Connect) -> TimescaleDBStorage:
    return connect()


@pytest.fixture
def look(timescale_url: str) -> Look:
    """`look(sql, *values)`: the rows of a statement, on a connection of its own."""

    def run(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(timescale_url) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    return run
