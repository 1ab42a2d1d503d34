"""Encrypted links with certificates checked both ways, and a pooler in between."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import trustme

from edgedepot import Device, TimescaleDBStorage, Version
from edgedepot.storage.base import StoreRow
from edgedepot.storage.errors import Misconfigured, Unreachable
from tests.models import Mixed, Weather
from tests.servers.pgbouncer import PgBouncer
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

HBA = b"""\
local all all trust
hostssl all certified 127.0.0.1/32 trust clientcert=verify-full
hostssl all postgres 127.0.0.1/32 trust
"""


@dataclass
class Tls:
    """A server that wants TLS, and the files of its clients."""

    server: TimescaleServer
    folder: Path

    def url(self, user: str = "postgres", **options: object) -> str:
        words = {"sslmode": "verify-full", "sslrootcert": self.folder / "ca.pem", **options}
        question = "&".join(f"{name}={value}" for name, value in words.items())
        return f"postgresql://{user}@127.0.0.1:{self.server.port}/postgres?{question}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    for name, issuer, expires in (
        ("certified", authority, None),
        ("stranger", other, None),
        ("somebody", authority, None),
        ("expired", authority, LONG_AGO + timedelta(days=1)),
    ):
        common_name = "certified" if name == "expired" else name
        made = issuer.issue_cert(f"{name}.example", common_name=common_name, not_after=expires)
        made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        (folder / f"{name}.key").chmod(0o600)
    files = {
        "server.crt": b"".join(blob.bytes() for blob in own.cert_chain_pems),
        "server.key": own.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
        "pg_hba.conf": HBA,
    }
    settings = {"ssl": "on", "ssl_ca_file": "ca.crt"}
    with TimescaleServer(files=files, settings=settings) as server:
        server.sql("CREATE ROLE certified LOGIN SUPERUSER")
        yield Tls(server, folder)


def write(url: str) -> int:
    with TimescaleDBStorage(url, gateway_id="roof") as storage:
        return storage.store_reading(Weather, "mast", None, {"temperature": 1.0}).accepted


def with_certificate(tls: Tls, name: str) -> str:
    return tls.url("certified", sslcert=tls.folder / f"{name}.pem", sslkey=tls.folder / f"{name}.key")


def test_the_server_is_known_by_its_certificate(tls: Tls) -> None:
    assert write(tls.url()) == 1
    with pytest.raises(Misconfigured, match="pg_hba"):
        write(tls.url(sslmode="disable"))
    with pytest.raises(Misconfigured, match="root certificate file"):
        write(tls.url(sslrootcert=tls.folder / "missing.pem"))


def test_a_server_that_is_not_who_it_should_be_is_not_sent_anything(tls: Tls) -> None:
    # Unreachable and not misconfigured: without the right time every certificate looks wrong.
    with pytest.raises(Unreachable, match=r"does not verify: .*certificate verify failed"):
        write(tls.url(sslrootcert=tls.folder / "other-ca.pem"))
    with pytest.raises(Unreachable, match=r"does not verify: .*does not match host name"):
        write(tls.url().replace("@127.0.0.1:", "@localhost:"))


def test_clients_are_known_by_their_certificates(tls: Tls) -> None:
    assert write(with_certificate(tls, "certified")) == 1
    with pytest.raises(Misconfigured, match="check user"):
        write(tls.url("certified"))
    with pytest.raises(Misconfigured, match="check user"):
        write(with_certificate(tls, "somebody"))
    for name in ("stranger", "expired"):
        with pytest.raises(Unreachable, match=r"alert|closed the connection"):
            write(with_certificate(tls, name))


# -- PgBouncer ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bouncer(timescale_server: TimescaleServer) -> Iterator[PgBouncer]:
    with PgBouncer(timescale_server) as pooler:
        yield pooler


def test_a_pooler_in_transaction_mode(bouncer: PgBouncer, timescale_url: str, look: Look) -> None:
    url = bouncer.url(timescale_url.rsplit("/", 1)[1])
    count, rounds = 6, 8

    def work(number: int) -> tuple[int, int]:
        """More storages than the pool has sessions: every transaction may run in another one."""
        with TimescaleDBStorage(url, gateway_id=f"gateway {number}") as storage:
            storage.save_device(Device("mast", f"mast {number}"))
            for round_ in range(rounds):
                rows: list[StoreRow] = [
                    Version("mast", T0 + timedelta(seconds=n), {"a": float(n)}, None, 1, n + 1)
                    for n in range(20 * round_, 20 * round_ + 40)
                ]
                storage.store_readings(Mixed, rows)
                assert storage.query_readings(Mixed, limit=1)[0]["timestamp"].tzinfo is UTC
            found = storage.aggregate(Mixed, "a", "count"), storage.devices()[0].name
            assert found == ({"result": 20 * rounds + 20}, f"mast {number}")
            return storage.delete_readings(Mixed, end=T0 + timedelta(seconds=20)), len(storage.query_readings(Mixed))

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(work, range(count))) == [(20, 20 * rounds)] * count
    assert look("SELECT count(*), count(DISTINCT gateway_id) FROM mixed") == [(count * 20 * rounds, count)]
    # What was set for our transactions does not stay with the sessions that others use after us.
    with TimescaleDBStorage(url, gateway_id="other", statement_timeout="90 s") as storage:
        storage.query_readings(Mixed, limit=1)
        assert storage.health_check()["status"] == "pass"
    timeouts = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        assert {connection.execute(timeouts).fetchall()[0][0] for _ in range(4)} == {"0"}
