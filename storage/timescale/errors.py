"""What psycopg and the server say, as the errors of this package: by SQLSTATE, in this one place.

SQLSTATE classes: PostgreSQL manual, appendix A.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from edgedepot.storage.errors import DataRefused, Misconfigured, Overloaded, Unreachable, UpstreamError

_LONGEST = 500

# The longest prefix that fits decides. `{}` is the server's address.
_RULES: dict[str, tuple[type[UpstreamError], str]] = {
    "0A": (Misconfigured, "{} cannot do what is asked of it here"),
    "08": (Unreachable, "no connection with {}"),
    "22": (DataRefused, "{} refuses a value"),
    "23": (DataRefused, "{} refuses a row"),
    "25006": (Unreachable, "{} only reads for now (a standby, or in maintenance): sending again later helps"),
    "28": (
        Misconfigured,
        "{} refuses the login: check user and password in the url (or the client certificate), and pg_hba.conf there",
    ),
    "3D": (Misconfigured, "there is no such database on {}: create it, or name another one in the url"),
    "3F": (Misconfigured, "there is no schema to work in on {}: create it, or set the user's search_path"),
    "40": (Overloaded, "{} broke off in favour of other writers: sending again helps"),
    "42": (Misconfigured, "{} cannot do this with its tables as they are: mend or move away what is named here"),
    "42501": (Misconfigured, "the user in the url lacks a right on {}: grant it"),
    "53": (Overloaded, "{} is short of connections or memory: sending less, later, helps"),
    "53100": (Unreachable, "the disk of {} is full: somebody has to make room there, then sending again helps"),
    "54": (DataRefused, "{} refuses a row for its size"),
    "54011": (Misconfigured, "the reading model has more fields than a table on {} can have columns: split it"),
    "55P03": (Overloaded, "a table on {} is locked by somebody else: sending again later helps"),
    "57014": (Overloaded, "{} took longer than the statement timeout"),
    "57P": (Unreachable, "{} is going down or coming up"),
    "TS": (Misconfigured, "TimescaleDB on {} does not take that"),
    "CERT": (
        Unreachable,
        "the certificate of {} does not verify: expired, of another name or authority, or the clock here is wrong",
    ),
    "URL": (Misconfigured, "an option in the url of {} is not what libpq takes"),
    "PG": (Misconfigured, "what answers at {} is no PostgreSQL: check host and port in the url"),
    "TLS": (Misconfigured, "no encrypted connection with {} in the way the url asks for: check sslmode, sslrootcert"),
}
_UNKNOWN = (Unreachable, "{} answered with an error that is not known here: it is tried again")
_NO_ANSWER = (Unreachable, "no connection with {}")

# While it connects, libpq hands on the server's words without the SQLSTATE; servers that speak another language than
# English come out as unreachable, with their words. A certificate that does not verify is no wrong set-up: a gateway
# whose clock is not set yet takes every certificate for one of the future.
_WORDS = (
    (re.compile("authentication failed|no pg_hba.conf entry|no password supplied|role .* does not exist"), "28000"),
    (re.compile("connection requires a valid client certificate"), "28000"),
    (re.compile("role .* is not permitted to log in|requested SASL|authentication method requirement"), "28000"),
    (re.compile("database .* does not exist"), "3D000"),
    (re.compile("permission denied for database"), "42501"),
    (re.compile("too many clients|too many connections|remaining connection slots"), "53300"),
    (re.compile("the database system is"), "57P03"),
    (re.compile(r"invalid [\w ]*value|bad value for"), "URL"),
    (re.compile("certificate verify failed|certificate has expired|does not match host name"), "CERT"),
    (re.compile("invalid response to SSL negotiation|expected authentication request from server, but"), "PG"),
    (re.compile("does not support SSL, but SSL was required|root certificate file .* does not exist"), "TLS"),
)


@contextmanager
def mapped(server: str) -> Iterator[None]:
    """Turn every psycopg error of the block into one of this package; `server` is the address to show."""
    try:
        yield
    except psycopg.Error as exc:
        raise upstream_error(exc, server) from exc


def upstream_error(exc: psycopg.Error, server: str) -> UpstreamError:
    """The error that says what helps. Its text: plain words, then the server's message and its SQLSTATE, which is
    its code too."""
    kind, words = _rule(exc)
    state = f" (SQLSTATE {exc.sqlstate})" if exc.sqlstate else ""
    return kind(f"{words.format(server)}: {_message(exc)}{state}", code=exc.sqlstate)


def _rule(exc: psycopg.Error) -> tuple[type[UpstreamError], str]:
    state = exc.sqlstate or _state_in_words(exc)
    if state is None:
        # Without an SQLSTATE it is psycopg's own: a value that it could not encode, else the connection.
        return _RULES["22"] if isinstance(exc, psycopg.DataError) else _NO_ANSWER
    for length in (5, 3, 2):
        if state[:length] in _RULES:
            return _RULES[state[:length]]
    return _UNKNOWN


def _state_in_words(exc: psycopg.Error) -> str | None:
    text = str(exc)
    return next((state for pattern, state in _WORDS if pattern.search(text)), None)


def _message(exc: psycopg.Error) -> str:
    """The server's first message. The details beside it show a whole row: they differ for each, and may be long."""
    return " ".join((exc.diag.message_primary or str(exc)).split())[:_LONGEST]
