"""What influxdb-client, urllib3 and the server say, as the errors of this package: by HTTP status, in this one place.

https://docs.influxdata.com/influxdb/v2/write-data/troubleshoot/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.flux_csv_parser import FluxCsvParserException, FluxQueryException
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError, NewConnectionError, ProxyError, TimeoutError

from edgedepot.storage.errors import DataRefused, Misconfigured, Overloaded, Unreachable, UpstreamError

_LONGEST = 500

# `{}` is the server's address.
_RULES: dict[int, tuple[type[UpstreamError], str]] = {
    400: (DataRefused, "{} refuses a reading"),
    401: (Misconfigured, "{} does not know the token: give a valid one"),
    403: (Misconfigured, "the token lacks a right on {}: give one that may read and write this bucket"),
    404: (Misconfigured, "{} is not there: check url, org and bucket, or create the bucket"),
    407: (Misconfigured, "the proxy in front of {} wants a login: proxy='http://user:password@host:port'"),
    408: (Unreachable, "{} waited too long for the request"),
    413: (Overloaded, "{} takes no request of this size"),
    422: (DataRefused, "{} refuses a reading"),
    429: (Overloaded, "{} is asked too often"),
    502: (Unreachable, "what stands in front of {} does not reach it: is the server up?"),
    503: (Overloaded, "{} cannot take anything now"),
    504: (Unreachable, "what stands in front of {} got no answer from it: is the server up?"),
    507: (Unreachable, "the disk of {} is full: somebody has to make room there, then sending again helps"),
}
_OTHER_4XX = (Misconfigured, "{} does not take such requests: check the url, and what stands in between")
_REDIRECT = (Misconfigured, "{} lies elsewhere: the url has to name the place itself")
_UNKNOWN = (Unreachable, "{} has a trouble of its own: it is tried again")
_NO_ANSWER = (Unreachable, "no answer from {}")
_WANTS_TLS = (Misconfigured, "{} takes TLS only: begin the url with https://")
_NO_FLUX = (Misconfigured, "{} takes writes at most: queries need InfluxDB 2, not InfluxDB 3 or VictoriaMetrics")
_NOT_DONE = (UpstreamError, "{} could not do that")
_QUERY_FAILED = "{} could not answer the query"
_UNKNOWN_ORG = "the organisation of {} cannot be found: check org, and what the token may see"

# The server's words; the status that comes with them has varied: 400 in InfluxDB 1, 500 in early 2.x
# (https://github.com/influxdata/influxdb/issues/19779), 422 today.
_TYPE_CONFLICT = re.compile(
    r'input field "(?P<field>[^"]*)" on measurement "(?P<measurement>[^"]*)"'
    r" is type (?P<ours>\w+), already exists as type (?P<theirs>\w+)"
)
# Older and newer words. It counts every such point of a request, and keeps the others.
_TOO_OLD = re.compile(
    r"points beyond retention policy dropped=(?P<older>\d+)|dropped (?P<newer>\d+) points outside retention policy"
)
# How Go's servers, InfluxDB among them, and nginx say it.
_PLAIN_HTTP = re.compile(r"(?i)HTTP request (?:was sent )?to (?:an )?HTTPS")
# What keeps TLS from coming up, by the words of OpenSSL. A certificate that does not verify is no wrong set-up: a
# gateway whose clock is not set yet takes every certificate for one of the future.
_TLS = (
    (
        re.compile("CERTIFICATE_VERIFY_FAILED"),
        Unreachable,
        "the certificate of {} does not verify: expired, of another name, of an authority that is not known here"
        " (ca_file), or the clock here is wrong",
    ),
    (
        re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG|UNKNOWN_PROTOCOL"),
        Misconfigured,
        "{} speaks no TLS there: begin the url with http://, or check its port",
    ),
    (
        re.compile("PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|HANDSHAKE_FAILURE|NO_SHARED_CIPHER"),
        Misconfigured,
        "{} and this machine know no TLS that both take for safe: bring the older of the two up to date",
    ),
)
_NO_ORG = re.compile(r"(?i)provide either orgID or org|organization .*not found")
_NO_SUCH_PATH = re.compile(r"(?i)(?:path|page) (?:requested|not found)")
_CONNECTION = re.compile(r"^\w+\(host=[^)]*\): ")
"""How urllib3 begins what it says of a connection: with the name of a class. The server is named already."""
_SHORT_OF_MEMORY = re.compile(r"(?i)memory allocation limit|queue (?:length|size) exceeded|too many")


@contextmanager
def mapped(server: str, *, asking: bool = False) -> Iterator[None]:
    """Turn every error of the client in the block into one of this package.

    `server` is the address to show. With `asking` the block is a query or an administrative call: a refusal there is
    not of readings.
    """
    try:
        yield
    except ApiException as exc:
        raise upstream_error(exc, server, asking) from exc
    except InfluxDBError as exc:  # from the client itself, which looks up the organisation's id by its name
        raise Misconfigured(f"{_UNKNOWN_ORG.format(server)}: {_cut(str(exc))}") from exc
    except ProxyError as exc:
        raise upstream_error(_of_tunnel(exc), server, asking) from exc
    except NewConnectionError as exc:  # refused, or a host of no such name; to urllib3 a TimeoutError too
        raise Unreachable(f"cannot connect to {server}: {_cut(_CONNECTION.sub('', str(exc)))}") from exc
    except TimeoutError as exc:
        raise Unreachable(f"{_NO_ANSWER[1].format(server)} in time: {_cut(_CONNECTION.sub('', str(exc)))}") from exc
    except (HTTPError, FluxCsvParserException, ValueError, IndexError, OSError) as exc:
        # A body that ends too soon, is no UTF-8, no CSV or none of Flux's: something broke on the way.
        raise Unreachable(f"{_NO_ANSWER[1].format(server)} that makes sense: {_cut(str(exc))}") from exc
    except FluxQueryException as exc:
        kind = Overloaded if _SHORT_OF_MEMORY.search(exc.message) else UpstreamError
        raise kind(f"{_QUERY_FAILED.format(server)}: {_cut(exc.message)}") from exc


def _of_tunnel(exc: ProxyError) -> ApiException:
    """What a proxy said that was to connect to the server: http.client has its status in the text alone."""
    status = re.search(r"Tunnel connection failed: (\d{3})", str(exc))
    return ApiException(status=int(status[1]) if status else 0, reason=str(exc))


def upstream_error(exc: ApiException, server: str, asking: bool) -> UpstreamError:
    """The error that says what helps. Its text: plain words, then the server's message and the HTTP status, which is
    its code too."""
    message = _message(exc)
    refusal = None if asking else _partly_refused(exc, message, server)
    if refusal:
        return refusal
    kind, words = _rule(exc, message, asking)
    code = str(exc.status) if exc.status else None
    status = f" (HTTP {code})" if code else ""
    return kind(f"{words.format(server)}: {message}{status}", retry_after=_retry_after(exc), code=code)


def _partly_refused(exc: ApiException, message: str, server: str) -> DataRefused | None:
    """The error for a write of which the server kept a part, by its words."""
    text, code = f"{message} (HTTP {exc.status})", str(exc.status)
    if conflict := _TYPE_CONFLICT.search(message):
        return DataRefused(f"{_conflict_in_words(conflict)}: {text}", code=code)
    if old := _TOO_OLD.search(message):
        count = int(old["older"] or old["newer"])
        return DataRefused(f"{server} keeps no readings as old as these: {text}", code=code, at_fault=count)
    return None


def _rule(exc: ApiException, message: str, asking: bool) -> tuple[type[UpstreamError], str]:
    status: int = exc.status or 0
    if status == 0:
        return next(((kind, words) for pattern, kind, words in _TLS if pattern.search(message)), _NO_ANSWER)
    if _PLAIN_HTTP.search(message):
        return _WANTS_TLS
    if asking and _NO_SUCH_PATH.search(message):
        return _NO_FLUX
    if status in (400, 422) and (asking or _NO_ORG.search(message)):
        return _NOT_DONE if asking else _RULES[404]
    if status in _RULES:
        return _RULES[status]
    if status < 400:
        return _REDIRECT
    return _OTHER_4XX if status < 500 else _UNKNOWN


def _conflict_in_words(conflict: re.Match[str]) -> str:
    field, measurement, ours, theirs = conflict.group("field", "measurement", "ours", "theirs")
    declare = "" if theirs == "unsigned" else f"declare it as {theirs}, "  # which no reading model has
    return (
        f'field "{field}" of "{measurement}" is {ours} here, and {theirs} in the bucket, where a field keeps its type:'
        f" {declare}give it another name, or use another bucket"
    )


def _message(exc: ApiException) -> str:
    """The server's message, which influxdb-client took from JSON, a header or the body as it came."""
    message = exc.message if exc.response is not None else exc.reason
    return _cut(message.decode(errors="replace") if isinstance(message, bytes) else str(message or "no reason given"))


def _cut(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


def _retry_after(exc: ApiException) -> float | None:
    """Seconds to wait, from a number of seconds or a date (RFC 9110, 10.2.3)."""
    given: Any = exc.retry_after
    if not isinstance(given, str):
        return None
    if given.strip().isdecimal():
        return float(given)
    try:
        # A gateway's clock may be wrong: a date is compared with the server's own, where it says that.
        served = None if exc.headers is None else exc.headers.get("Date")
        now = parsedate_to_datetime(served) if served else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(given) - now).total_seconds())
    except (ValueError, TypeError):
        return None
