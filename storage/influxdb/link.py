"""influxdb-client, set up: one client for writes, one for all else, so that a long query holds up no write."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.service.ping_service import PingService
from influxdb_client.service.write_service import WriteService

from edgedepot.storage.errors import DataRefused, StorageClosed, Unreachable
from edgedepot.storage.influxdb.connections import pools
from edgedepot.storage.influxdb.errors import mapped
from edgedepot.storage.influxdb.settings import Settings
from edgedepot.storage.wire import WireMeter

# Line protocol shrinks to a third, of noise, or an eighth at level 1. The client's level 9 takes 7 to 20 times as long
# for a tenth to a quarter less.
_LEVEL = 1

Answer = TypeVar("Answer")


class Link:
    """The way to one server. All methods may be called from any thread; requests run side by side."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.meter = WireMeter()
        """What went over the wire."""
        self._writing = _client(settings, self.meter, compressed_answers=False)
        self._asking = _client(settings, self.meter, compressed_answers=True)
        self._writes = WriteService(self._writing.api_client)
        self._lock = threading.Lock()
        self._under_way = 0
        self._closed = False

    def send(self, body: bytes) -> None:
        """Write lines; returns when the server has stored them. Raises `UpstreamError`, `StorageClosed`."""
        settings = self._settings
        # influxdb-client would compress too, at its dearest level.
        encoding = "gzip" if settings.gzip else "identity"
        with self._request(), mapped(settings.shown):
            _, status, _ = self._writes.post_write_with_http_info(
                org=settings.org,
                bucket=settings.bucket,
                body=gzip.compress(body, _LEVEL, mtime=0) if settings.gzip else body,
                precision="ns",
                content_encoding=encoding,
                content_type="text/plain; charset=utf-8",
            )
        if status != 204:
            # A hotel's login page answers 200 to everything.
            raise Unreachable(
                f"{settings.shown} answered {status}, where InfluxDB says 204: it was somebody else. Where the network"
                " here wants a login, log in; else check the url"
            )

    def try_write(self) -> None:
        """Ask whether writes would be taken, by one without a line. Raises as `send` does, but not for the emptiness:
        token, org and bucket are looked at before that."""
        with suppress(DataRefused):
            self.send(b"")

    def ping(self) -> str | None:
        """The server's version as it says it, None where it does not. Needs no token. Raises `UpstreamError`."""
        _, _, headers = self.ask(lambda client: PingService(client.api_client).get_ping_with_http_info())
        version: str | None = headers.get("X-Influxdb-Version")
        return version

    def server_time(self) -> datetime | None:
        """The time of an answer as its head says it. Raises `UpstreamError`."""
        _, _, headers = self.ask(lambda client: PingService(client.api_client).get_ping_with_http_info())
        found = headers.get("Date")
        with suppress(ValueError):
            return None if found is None else parsedate_to_datetime(found)
        return None

    def ask(self, question: Callable[[InfluxDBClient], Answer]) -> Answer:
        """What the server answers to a query or an administrative call; the answer has to be read to its end inside
        of `question`. Raises `UpstreamError`, `StorageClosed`."""
        with self._request(), mapped(self._settings.shown, asking=True):
            return question(self._asking)

    def close(self) -> None:
        """Close for good; requests under way may end first. Does not wait for them. Idempotent."""
        with self._lock:
            self._closed = True
            self._let_go()

    @contextmanager
    def _request(self) -> Iterator[None]:
        """The time of one request, in which the clients are not closed. Raises `StorageClosed`."""
        with self._lock:
            if self._closed:
                raise StorageClosed("the storage was closed")
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._let_go()

    def _let_go(self) -> None:
        if self._closed and not self._under_way:
            self._writing.close()
            self._asking.close()


def _client(settings: Settings, meter: WireMeter, *, compressed_answers: bool) -> InfluxDBClient:
    options: dict[str, Any] = {"connection_pool_maxsize": 4, "ssl_ca_cert": settings.ca_file, "token": settings.token}
    options["timeout"] = (settings.connect_timeout * 1000, settings.timeout * 1000)
    if settings.proxy:
        options["proxy"] = settings.proxy
        if settings.proxy_login:
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=settings.proxy_login)
    # Without retries, also without redirects: who calls decides what is tried again.
    client = InfluxDBClient(
        settings.url,
        enable_gzip=compressed_answers and settings.gzip,
        org=settings.org,
        retries=False,
        **options,
    )
    client.api_client.rest_client.pool_manager.pool_classes_by_scheme = pools(meter, settings.timeout)
    return client
