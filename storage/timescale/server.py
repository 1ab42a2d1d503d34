"""The server: its url, checked without connecting and shown without its secrets; and connecting to it."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import psycopg
from psycopg.abc import PQGen, PQGenConn
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, namedtuple_row
from psycopg.sql import SQL, Composed, Literal

from edgedepot.storage.errors import ConfigError, Misconfigured, UpstreamError
from edgedepot.storage.reading import Reading
from edgedepot.storage.registry import did_you_mean
from edgedepot.storage.timescale.errors import upstream_error
from edgedepot.storage.timescale.place import Place
from edgedepot.storage.timescale.statements import STATEMENTS
from edgedepot.storage.values import text_problem
from edgedepot.storage.wire import WireMeter, is_host_name

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
# As libpq reads it: whatever comes before the first slash may be user, password and host.
_URL = re.compile(r"postgres(?:ql)?://(?P<authority>[^/]*)(?P<path>/[^?]*)?(?:\?.*)?", re.DOTALL)
_EXPECTED = "expected postgresql://user:password@host:5432/database"

# A link that died is noticed within 30 s: when idle by keepalives, else by what was sent and not acknowledged.
_DEAD_LINK = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how long to wait for it. Holds secrets: `shown` is what may be shown."""

    shown: str
    statement_timeout: float
    patience: float
    """The server ends a statement that takes too long. Where not even that arrives, we stop waiting after so long."""
    place: Place
    conninfo: str = field(repr=False)
    _warned: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Taken, and never given back, by whoever logs the one warning."""

    @classmethod
    def of(cls, url: object, connect_timeout: float, statement_timeout: float, place: Place) -> Server:
        """Check a url. Raises `ConfigError` that names it, without its password."""
        parts = _parse(url)
        settings = {
            "fallback_application_name": "edgedepot",
            "client_encoding": "utf-8",
            "connect_timeout": str(math.ceil(connect_timeout)),
            **_DEAD_LINK,
            **parts,
        }
        patience = statement_timeout + connect_timeout
        return cls(_shown(parts), statement_timeout, patience, place, make_conninfo("", **settings))

    def with_timeout(self, statement_timeout: float, connect_timeout: float) -> Server:
        """The same server, whose statements may take another time."""
        return replace(self, statement_timeout=statement_timeout, patience=statement_timeout + connect_timeout)

    @property
    def user(self) -> str | None:
        """The user in the url."""
        user = conninfo_to_dict(self.conninfo).get("user")
        return None if user is None else str(user)

    @property
    def uses_tls(self) -> bool | None:
        """Whether connections are encrypted, as the url or PGSSLMODE say; None where that is left to the server."""
        default = next(one for one in psycopg.pq.Conninfo.get_defaults() if one.keyword == b"sslmode")
        mode = conninfo_to_dict(self.conninfo).get("sslmode") or (default.val or b"").decode()
        return None if mode in ("allow", "prefer") else mode != "disable"

    def connect(self, meter: WireMeter | None = None) -> Session:
        """Open a connection, of which `meter` counts the bytes and the waits, and look at the server. Blocks; raises
        psycopg's errors, and `Misconfigured`."""

        class Counted(_PatientConnection):
            wire = meter

        # No prepared statements: they are few and large, and a pooler in between may not know them. Transactions are
        # begun by hand, together with their settings.
        with nullcontext() if meter is None else meter.waiting():
            connection = Counted.connect(self.conninfo, prepare_threshold=None, autocommit=True)
        try:
            connection.patience = self.patience
            return self._look(connection)
        except BaseException:
            connection.close()
            raise

    def _look(self, connection: _PatientConnection) -> Session:
        with connection.cursor(row_factory=namedtuple_row) as cursor:
            found: Any = cursor.execute(STATEMENTS["server"]).fetchone()
        schema = self.place.schema or found.schema
        if schema is None:
            raise Misconfigured(
                f"there is no schema to work in on {self.shown}: its user's search_path names none that exists and"
                " that it may use. Grant it usage on one, or set its search_path"
            )
        if found.timescaledb is None and self._warned.acquire(blocking=False):
            _log.warning(
                "%s has no TimescaleDB: tables made now are plain ones, and stay so;"
                " CREATE EXTENSION timescaledb in that database, where it is installed, makes hypertables of new ones",
                self.shown,
            )
        return Session(
            connection,
            self.shown,
            Place(schema, self.place.prefix),
            found.version,
            found.timescaledb,
            found.home,
            found.temporary,
            _settings(max(1, round(self.statement_timeout * 1000))),
        )


class Session(msgspec.Struct):
    """An open connection, and what is known of the other end of it."""

    connection: _PatientConnection
    shown: str
    """The server's address, for people."""
    place: Place
    postgresql: str
    timescaledb: str | None
    """The extension's version; None where this is a plain PostgreSQL."""
    extension_schema: str | None
    temporary: bool
    """Whether the user may make temporary tables."""
    _settings: Composed
    prepared: dict[str, type[Reading]] = msgspec.field(default_factory=dict)
    """By measurement, the model for which the table is ready."""
    keeps_all: dict[str, float] = msgspec.field(default_factory=dict)
    """By measurement, until when (of the monotonic clock) its table is taken to leave out no rows."""

    @property
    def schema(self) -> str:
        """The schema with our tables."""
        assert self.place.schema is not None
        return self.place.schema

    @property
    def version(self) -> str:
        """The versions of server and extension, for people."""
        extension = f", TimescaleDB {self.timescaledb}" if self.timescaledb else ""
        return f"PostgreSQL {self.postgresql}{extension}"

    @contextmanager
    def transaction(self, *statements: Composed, keep: bool = True) -> Iterator[psycopg.Cursor[TupleRow]]:
        """Commit at the end of the block, or with `keep=False` roll back; roll back if it raises. `statements` go along
        with its beginning, which saves a round trip; the cursor stands at the result of the last."""
        connection = self.connection
        try:
            cursor = connection.execute(SQL("BEGIN; ") + SQL("; ").join([self._settings, *statements]))
            while cursor.nextset():
                pass
            yield cursor
            if keep:
                connection.commit()
            else:
                connection.rollback()
        except BaseException:
            if connection.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                with suppress(psycopg.Error):  # the error under way says more than this one
                    connection.rollback()
            raise

    def take_time(self) -> None:
        """From now on a statement may take as long as it takes."""
        self.connection.patience = math.inf
        self._settings = _settings(0)

    def run(self, *statements: SQL | Composed) -> None:
        """Run statements without parameters, one after the other."""
        for statement in statements:
            self.connection.execute(statement)

    def explain(self, exc: psycopg.Error) -> UpstreamError:
        """psycopg's error as ours."""
        return upstream_error(exc, self.shown)


def _settings(statement_timeout: int) -> Composed:
    """What every transaction begins with; the timeout is in milliseconds, 0 for none."""
    return STATEMENTS["settings"].format(timeout=Literal(str(statement_timeout)))


class _PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that gives up when the server says nothing for `patience` seconds, though the link stands."""

    patience = math.inf
    wire: ClassVar[WireMeter | None] = None

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """psycopg's steps of connecting, each of which says on which socket it waits: there may be several, one after
        the other, and a password that is refused costs bytes too."""
        steps = super()._connect_gen(conninfo)
        try:
            step = next(steps)
            while True:
                if cls.wire is not None:
                    cls.wire.watch(step[0])
                step = steps.send((yield step))
        except StopIteration as end:
            connection: Self = end.value
            return connection

    def wait(self, gen: PQGen[_Result], *args: Any, **options: Any) -> _Result:
        with nullcontext() if self.wire is None else self.wire.waiting(self.pgconn.socket):
            return super().wait(_within(gen, self.patience), *args, **options)


def _within(steps: PQGen[_Result], seconds: float) -> PQGen[_Result]:
    """The same steps of psycopg's conversation with the server, ended when none becomes ready for so long.

    psycopg resumes them with nothing ready ten times a second, so that they can look up.
    """
    limit = time.monotonic() + seconds
    try:
        step = next(steps)
        while True:
            ready = yield step
            if not ready and time.monotonic() > limit:
                raise psycopg.OperationalError(f"the server said nothing for {seconds:g} s")
            step = steps.send(ready)
    except StopIteration as end:
        result: _Result = end.value
        return result


def _parse(url: object) -> dict[str, Any]:
    if not isinstance(url, str):
        raise ConfigError(f"TimescaleDB url is {type(url).__name__}, {_EXPECTED}")
    match = _URL.fullmatch(url)
    if match is None or text_problem(url):
        raise _config_error(url, _EXPECTED)
    if match["authority"].count("@") > 1 or "@" in (match["path"] or ""):
        raise _config_error(url, "in a user or password @ is written %40, : %3A, / %2F, ? %3F, % %25")
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        if unknown := _unknown_option(url):
            raise _config_error(url, unknown) from None
        # Not chained, and its text not shown: it can quote the password.
        raise _config_error(url, f"{_EXPECTED}; every % in it begins a code such as %40 for @") from None
    for port in str(parts.get("port") or 5432).split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise _config_error(url, f"the port is no number from 1 to 65535; {_EXPECTED}")
    for host in str(parts.get("host") or "").split(","):
        if not (host.startswith(("/", "@")) or is_host_name(host)):
            raise _config_error(url, f"the host is no name or address; {_EXPECTED}")
    return parts


def _unknown_option(url: str) -> str:
    """The first option behind the url's ? that libpq does not know, in words; empty where there is none, or where what
    stands there may be a piece of a password."""
    options = url.partition("?")[2]
    known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
    names = [] if "@" in options else [pair.partition("=")[0] for pair in options.split("&") if "=" in pair]
    unknown = next((name for name in names if name not in (*known, "ssl")), None)
    return f"found the option {unknown!r}, which libpq does not have{did_you_mean(unknown, known)}" if unknown else ""


def _config_error(url: str, problem: str) -> ConfigError:
    return ConfigError(f"TimescaleDB url {_without_secrets(url)!r}: {problem}")


def _without_secrets(url: str) -> str:
    """A url that may be malformed, with everything starred that could be a password."""
    url = re.sub(r"(://[^:@/?]*:)(?:.*@|(?!\d{1,5}(?:[/,?]|$))[^/?]*)", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"(?i)(password\s*=)[^&]*", r"\1***", url)


def _shown(parts: dict[str, Any]) -> str:
    user = f"{parts['user']}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{user}{parts.get('host', 'localhost')}{port}/{parts.get('dbname', '')}"
