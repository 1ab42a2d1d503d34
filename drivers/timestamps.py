"""The devices' own times, from a value in a message to microseconds since 1970-01-01 UTC.

Understood are ISO 8601 text with a zone (``2026-01-01T00:00:00Z``, ``2026-01-01 01:00:00.5+01:00``), and numbers, also
as text, since 1970-01-01 UTC in the unit that their size tells:

    below 1e11   seconds          (1e11 s is the year 5138)
    below 1e14   milliseconds     (1e11 ms was March 1973)
    below 1e17   microseconds
    from 1e17    nanoseconds

No accepted time can be taken for one in another unit. What is finer than a microsecond is cut; a float is rounded to
the nearest microsecond, which is the one that was written: doubles lie 0.24 µs apart at today's seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from edgedepot.storage.clock import DAY, EARLIEST, to_micros
from edgedepot.storage.errors import DecodeError

_FIRST, _LAST = to_micros(datetime(1, 1, 2, tzinfo=UTC)), to_micros(datetime(9999, 12, 30, tzinfo=UTC))
_NUMBER = re.compile(r"\s*[+-]?\d{1,30}(?:\.(\d{0,30}))?\s*", re.ASCII)


def read_timestamp(value: object, now: int | None) -> int:
    """The moment that a device means, in microseconds since 1970-01-01 UTC.

    `now` is the gateway's time in the same unit, None where it does not know it. Raises `DecodeError` with the reason
    alone for what cannot be read, has no zone, or lies outside 2020-01-01 to one day after `now`.
    """
    if value.__class__ is str:
        micros = _of_text(value)
    elif value.__class__ is int or value.__class__ is float:
        micros = _of_number(value)
    else:
        raise DecodeError(f"is {type(value).__name__}, expected ISO 8601 with a zone, or a number since 1970")
    if now is None:
        return min(max(micros, _FIRST), _LAST)
    if not EARLIEST <= micros <= now + DAY:
        raise DecodeError(f"is {_shown(value)}, outside 2020-01-01 to one day from now")
    return micros


def is_iso_time(value: object, now: int | None) -> bool:
    """Whether it is ISO 8601 text with a zone, within what is accepted. Where its front is cut off, what is left never
    is: it lacks the year. Of a number's tail one cannot say that."""
    if not isinstance(value, str):
        return False
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    if moment.tzinfo is None:
        return False
    return now is None or EARLIEST <= to_micros(moment) <= now + DAY


def _of_text(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None:
        return to_micros(moment)
    number = _NUMBER.fullmatch(text)  # before a missing zone: a row of digits may look like a date
    if number is not None:
        return _of_number(int(text) if number[1] is None and "." not in text else float(text))
    if moment is not None:
        raise DecodeError(f"is {_shown(text)}, which has no zone")
    raise DecodeError(f"is {_shown(text)}, expected ISO 8601 with a zone, or a number since 1970")


def _of_number(value: int | float) -> int:
    size = abs(value)
    if size < 1e11:
        return round(value * 1_000_000)
    if size < 1e14:
        return round(value * 1_000)
    if size < 1e17:
        return round(value)
    if value - value != 0:  # infinity, NaN
        raise DecodeError(f"is {value}, expected a finite number")
    return int(value // 1_000)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge integer"
    return text if len(text) <= 60 else f"{text[:57]}..."
