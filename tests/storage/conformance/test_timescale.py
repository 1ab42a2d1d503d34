"""The contract on TimescaleDB, a real one, and on PostgreSQL 15 without the extension."""

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from edgedepot import BaseStorage, TimescaleDBStorage
from edgedepot.storage.conformance import StorageContract
from tests.servers.timescale import PlainPostgres, TimescaleServer

# Emptying the tables of the test before takes less time than making them again.
_EMPTY_ALL = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('TRUNCATE public.%I', name);
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


@pytest.fixture(scope="module")
def owner(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


class TestTimescaleDBStorage(StorageContract):
    @pytest.fixture
    def storage(self, database: str, owner: psycopg.Connection) -> Iterator[BaseStorage]:
        owner.execute(_EMPTY_ALL)
        with TimescaleDBStorage(database, gateway_id="roof") as storage:
            yield storage

    @pytest.fixture
    def settings(self, database: str) -> Mapping[str, Any]:
        return {"engine": "timescaledb", "url": database}


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with PlainPostgres() as server:
        yield server.url(server.create_database())


@pytest.fixture(scope="module")
def plain_owner(plain: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


class TestTimescaleDBStorageOnPlainPostgreSQL(StorageContract):
    @pytest.fixture
    def storage(self, plain: str, plain_owner: psycopg.Connection) -> Iterator[BaseStorage]:
        plain_owner.execute(_EMPTY_ALL)
        with TimescaleDBStorage(plain, gateway_id="roof") as storage:
            yield storage

    @pytest.fixture
    def settings(self, plain: str) -> Mapping[str, Any]:
        return {"engine": "timescaledb", "url": plain}
