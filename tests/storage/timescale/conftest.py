"""The storage under test, on a fresh database, and a second pair of eyes on that database."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from edgedepot import TimescaleDBStorage

Look = Callable[..., list[tuple[Any, ...]]]
Connect = Callable[..., TimescaleDBStorage]


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
