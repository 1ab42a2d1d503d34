"""Formats: the bytes of one message -> its fields by name. One small file each, loaded when a driver names it.

A format of another package is found through the entry-point group ``edgedepot.formats``: a subclass of `Format`, whose
constructor's parameters are its options.
"""

from __future__ import annotations

import abc
import codecs
import inspect
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from edgedepot.storage.errors import ConfigError, DecodeError
from edgedepot.storage.options import Checker, options_of
from edgedepot.storage.registry import Registry, did_you_mean


class Format(abc.ABC):
    """How a message is written. Thread-safe: one object decodes for any number of sources."""

    detects_cut_front: ClassVar[bool] = False
    """Whether a message whose beginning is missing can never be mistaken for a whole one."""

    names: Collection[str] | None = None
    """The names that a message can give, where the format knows them beforehand; None: whatever stands in it."""

    first: str | None = None
    """The name of the value that every message begins with, where the format knows it."""

    @abc.abstractmethod
    def decode(self, raw: bytes) -> Mapping[str, Any]:
        """The fields of a message by name: numbers, bools, texts, or None for what is absent; numbers may be texts.

        Raises `DecodeError` with the reason for bytes that are no such message, and nothing else.
        """


FORMATS: Registry[Format] = Registry(
    Format,  # type: ignore[type-abstract]  # the abstract base is what subclasses are checked against
    "edgedepot.formats",
    {
        "json": "edgedepot.drivers.formats.json.JsonFormat",
        "value": "edgedepot.drivers.formats.value.ValueFormat",
        "csv": "edgedepot.drivers.formats.csv.CsvFormat",
        "keyvalue": "edgedepot.drivers.formats.keyvalue.KeyValueFormat",
    },
)


def make_format(format: str | Format, options: Mapping[str, Any], owner: type) -> Format:
    """The format that a driver's settings describe; `options` are all keywords that the driver does not know itself.

    Raises `ConfigError`, with a line for each option that is wrong. `owner` is the driver's class.
    """
    if isinstance(format, Format):
        if options:
            raise ConfigError(f"unknown setting {next(iter(options))!r}: a format that is given ready takes none")
        return format
    try:
        found = FORMATS.find(format)
    except ConfigError as exc:
        raise ConfigError(f"format: {exc}") from exc
    _check_keys(found, format, options, owner)
    checker = Checker()
    arguments = checker.arguments("", found, options)
    checker.raise_problems()
    return found(**arguments)


def _check_keys(found: type[Format], name: str, options: Mapping[str, Any], owner: type) -> None:
    known, _ = options_of(found)
    for key in options:
        if key not in known:
            of_format = f"format {name!r} takes {', '.join(known)}" if known else f"format {name!r} takes no options"
            near = did_you_mean(key, [*known, *inspect.signature(owner).parameters])
            raise ConfigError(f"unknown setting {key!r}{near}; {of_format}")


def check_encoding(encoding: str) -> str:
    """The same name, of a text encoding that exists. Raises `ConfigError`."""
    try:
        codecs.lookup(encoding)
    except LookupError as exc:
        raise ConfigError(f"encoding: found {encoding!r}, expected a text encoding such as 'utf-8'") from exc
    return encoding


def decode_text(raw: bytes, encoding: str) -> str:
    """The bytes as text. Raises `DecodeError`."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as exc:
        raise DecodeError(f"is not {encoding}: byte {exc.start} is 0x{raw[exc.start]:02x}") from exc
