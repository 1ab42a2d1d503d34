"""What may be up with the server that an upstream is on, a real one: each fault by its outcome and in the words that
the user reads (docs/timescaledb.md lists them). Nothing is set aside, and once it is mended everything arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from edgedepot import SyncWorker, TimescaleDBStorage
from tests.books import upstream_books
from tests.servers.process import wait_until
from tests.servers.timescale import TimescaleServer
from tests.sync.scripted import Weather, eventually, fill, open_store

BACKOFF = ("5 ms", "50 ms")
ROWS = 3000
CONNECTIONS = 6
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Site:
    """A server that wants TLS and a password, and its certificates."""

    server: TimescaleServer
    authority: trustme.CA
    folder: Path

    def url(self, user: str) -> str:
        options = f"sslmode=verify-full&sslrootcert={self.folder / 'ca.pem'}"
        return f"postgresql://{user}:secret@127.0.0.1:{self.server.port}/postgres?{options}"

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, as somebody who may; the rows of the last."""
        with psycopg.connect(self.url("postgres")) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def upstream(self) -> TimescaleDBStorage:
        return TimescaleDBStorage(self.url("gateway"), write_timeout="300 ms", schema="public")

    def make_tables(self) -> None:
        """As somebody does it for a user who may not."""
        self.sql(self.upstream().schema_sql([Weather]))

    @property
    def is_open(self) -> bool:
        """Whether somebody new comes in."""
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def end_sessions(self) -> None:
        self.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'gateway'")

    def certify(self, **options: Any) -> None:
        """Give the server another certificate."""
        self.server.put_files(certificate(self.authority, **options))
        self.server.reload()


def certificate(authority: trustme.CA, **options: Any) -> dict[str, bytes]:
    made = authority.issue_cert("127.0.0.1", **options)
    return {"server.crt": made.cert_chain_pems[0].bytes(), "server.key": made.private_key_pem.bytes()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    settings = {"ssl": "on", "max_connections": str(CONNECTIONS), "superuser_reserved_connections": "0"}
    with TimescaleServer(password="secret", files=certificate(authority), settings=settings) as server:
        made = Site(server, authority, folder)
        made.sql("CREATE ROLE gateway LOGIN PASSWORD 'secret'")
        yield made


@contextmanager
def no_free_connection(site: Site) -> Iterator[None]:
    with ExitStack() as taken:

        def take(user: str = "gateway") -> psycopg.Connection:
            return taken.enter_context(psycopg.connect(site.url(user), autocommit=True))

        first = take("postgres")

        def others() -> list[int]:
            """Who else is connected: the upstream, and for a moment whoever has just gone."""
            found = first.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return [pid for (pid,) in found]

        wait_until(lambda: len(others()) == 1, "the upstream alone is connected beside us")
        first.execute("SELECT pg_terminate_backend(%s, 10000)", others())
        for _ in range(CONNECTIONS - 1):
            take()
        yield


@contextmanager
def only_reading(site: Site) -> Iterator[None]:
    site.sql("ALTER ROLE gateway SET default_transaction_read_only = on")
    site.end_sessions()
    yield
    site.sql("ALTER ROLE gateway RESET default_transaction_read_only")
    site.end_sessions()


@contextmanager
def full_disk(site: Site) -> Iterator[None]:
    with site.server.small_disk("200k") as make_larger:
        site.sql("ALTER TABLE weather SET TABLESPACE small")
        yield
        make_larger("60m")
        site.sql("ALTER TABLE weather SET TABLESPACE pg_default")


@contextmanager
def another_password(site: Site) -> Iterator[None]:
    site.sql("ALTER ROLE gateway PASSWORD 'another'")
    site.end_sessions()
    yield
    site.sql("ALTER ROLE gateway PASSWORD 'secret'")


@contextmanager
def expired_certificate(site: Site) -> Iterator[None]:
    site.end_sessions()
    site.certify(not_after=LONG_AGO)
    wait_until(lambda: not site.is_open, "the certificate is the expired one")
    yield
    site.certify()


@contextmanager
def missing_table(site: Site) -> Iterator[None]:
    site.sql("ALTER TABLE weather RENAME TO elsewhere")
    yield
    site.sql("ALTER TABLE elsewhere RENAME TO weather")


@contextmanager
def locked_table(site: Site) -> Iterator[None]:
    with psycopg.connect(site.url("postgres")) as connection:
        connection.execute("LOCK TABLE weather IN ACCESS EXCLUSIVE MODE")
        yield


Fault = Callable[[Site], AbstractContextManager[None]]


FAULTS: list[tuple[Fault, str, str]] = [
    (no_free_connection, "waiting", "is short of connections or memory: .*sorry, too many clients already"),
    (only_reading, "waiting", "only reads for now .*read-only transaction .SQLSTATE 25006"),
    (full_disk, "waiting", "the disk of .* is full: .*SQLSTATE 53100"),
    (another_password, "misconfigured", "refuses the login: check user and password in the url"),
    (
        expired_certificate,
        "waiting",
        "the certificate of .* does not verify: expired, .*certificate (verify failed|has expired)",
    ),
    (missing_table, "misconfigured", "lacks a right .*the SQL that `edgedepot upstream schema` prints"),
    (locked_table, "waiting", "took longer than the statement timeout: .*SQLSTATE 57014"),
]


@pytest.mark.parametrize(("fault", "state", "words"), FAULTS, ids=[fault.__name__ for fault, *_ in FAULTS])
def test_a_fault_of_the_server_is_named_and_nothing_is_lost(
    site: Site, tmp_path: Path, fault: Fault, state: str, words: str
) -> None:
    site.sql("DROP TABLE IF EXISTS weather")
    site.make_tables()
    with (
        open_store(tmp_path / "local.db") as store,
        site.upstream() as upstream,
        SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker,
    ):
        fill(store, 1)
        eventually(lambda: worker.status().delivered == 1 and worker.status().state == "idle")
        with fault(site):
            fill(store, ROWS, start=1)
            eventually(
                lambda: worker.status().state == state and bool(re.search(words, str(worker.status().last_error)))
            )
            assert (worker.status().alarm is not None) == (state == "misconfigured")
            assert worker.status().delivered < ROWS
        eventually(lambda: worker.status().delivered == 1 + ROWS)
        assert worker.status().alarm is None
        eventually(lambda: store.count_pending("central") == 0)
        assert store.refusals == []
        assert store.ledger().upstreams["central"] == upstream_books(versions=1 + ROWS, delivered=1 + ROWS)
    total = 1 + ROWS
    assert site.sql("SELECT count(*), count(DISTINCT timestamp), sum(temperature) FROM weather") == [
        (total, total, sum(range(total)))
    ]
