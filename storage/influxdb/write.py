"""A batch on its way into the bucket: checked, encoded, sent in pieces that the server takes.

    rows -> lines -> pieces of at most `batch_lines` and `batch_bytes` -> gzip -> one request each

A point is known by measurement, tags and time. Writing it again overwrites it field by field, whatever comes last wins,
so the order of the rows is kept; the same batch again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from edgedepot.storage.base import Data, StoreRow, Version
from edgedepot.storage.errors import DataRefused, InvalidValue, Overloaded
from edgedepot.storage.influxdb.line import EARLIEST, LATEST, encoder_of, head_of
from edgedepot.storage.influxdb.link import Link
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.receipt import Refusal


def lines_of(
    model: type[Reading],
    gateway_id: str,
    rows: Iterable[StoreRow],
    now: Callable[[], int],
    refused: list[Refusal],
) -> Iterator[str]:
    """The rows as lines; those that cannot be are added to `refused`. Rows without a time are stamped with `now()`."""
    make, encode = model.__rows__.make, encoder_of(model)
    heads: dict[str, str] = {}
    device: Any
    moment: datetime | None
    for index, row in enumerate(rows):
        try:
            quality, epoch, seq = None, 0, 0
            if isinstance(row, Version):
                device, moment, data, quality, epoch, seq = row
            else:
                device, moment, data = _unversioned(row)
            head = heads.get(device) if type(device) is str else None
            if head is None:
                name = device_id_of(device)
                head = heads[name] = head_of(model, name, gateway_id)
            micros = now() if moment is None else micros_of(moment)
            if not EARLIEST <= micros < LATEST:
                raise InvalidValue(f"timestamp {moment} is not within 1677-09-21 to 2262-04-11, as InfluxDB keeps it")
            made = make(data)
            if epoch or seq:
                # Sync's. Written when good, too: a merge may have mended what an earlier version was flagged for, and
                # what is left out stays as it was.
                made = (_checked(quality) or 0, *made[1:])
            elif quality is not None:
                made = (_checked(quality), *made[1:])
        except InvalidValue as exc:
            refused.append(Refusal(index, str(exc)))
            continue
        yield encode(head, micros, made)


def _unversioned(row: Any) -> tuple[Any, datetime | None, Data]:
    if not isinstance(row, (tuple, list)) or len(row) != 3:
        raise InvalidValue("a row is expected as (device, timestamp, data)")
    return row  # type: ignore[return-value]  # or a list of the same


def _checked(quality: object) -> int | None:
    if quality is None or (isinstance(quality, int) and 0 <= quality < 2**15):
        return quality
    raise InvalidValue(f"quality is {quality!r}, expected None or a sum of flags")


class Sender:
    """Sends lines in pieces and learns how large a request may be. May be used from any thread."""

    def __init__(self, link: Link, batch_lines: int, batch_bytes: int) -> None:
        self._link = link
        self._most_lines = batch_lines
        self._most_bytes = batch_bytes

    def send(self, lines: Iterable[str]) -> int:
        """Send all lines; returns their number once the server has stored them.

        Raises `UpstreamError`: earlier pieces are stored then, and of the piece at fault any part may be.
        """
        remaining = iter(lines)
        sent = 0
        while piece := list(islice(remaining, self._most_lines)):
            self._send_piece(piece)
            sent += len(piece)
        return sent

    def _send_piece(self, lines: list[str]) -> None:
        body = "\n".join(lines).encode()
        if len(body) > self._most_bytes and len(lines) > 1:
            self._send_halves(lines)
            return
        try:
            self._link.send(body)
        except Overloaded as exc:
            if exc.code != "413":
                raise
            if len(lines) == 1:
                raise DataRefused(f"a single reading of {len(body)} bytes is too large: {exc}", code=exc.code) from exc
            self._most_bytes = min(self._most_bytes, len(body) // 2)  # the next ones are as large: spare them this
            self._send_halves(lines)

    def _send_halves(self, lines: list[str]) -> None:
        middle = len(lines) // 2
        self._send_piece(lines[:middle])
        self._send_piece(lines[middle:])
