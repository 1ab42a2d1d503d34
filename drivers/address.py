"""Where an MQTT broker is, and who we are to it: from settings, checked."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from edgedepot.storage.errors import ConfigError
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.wire import is_host_name

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_EXPECTED = "expected mqtt://host, mqtt://user:password@host:1883 or mqtts://host:8883"
_FOR_EVER = 0xFFFF_FFFF  # seconds of session expiry, MQTT 5 section 3.1.2.11.2

File = str | os.PathLike[str]


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho leaves it open then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class Address:
    """A broker and how to connect to it. Durations in seconds. `tls` makes a context; None is no TLS."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_version_5: bool = True
    session_expiry: int = 86_400
    receive_maximum: int = 5_000
    keepalive: int = 60
    tls: Callable[[], ssl.SSLContext] | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtt' if self.tls is None else 'mqtts'}://{host}:{self.port}"


def read_address(
    url: str,
    *,
    username: str | None,
    password: str | None,
    protocol: str,
    session_expiry: Any,
    receive_maximum: int,
    keepalive: Any,
    files: tuple[File | None, File | None, File | None],
) -> Address:
    """The address that a driver's settings describe; `files` are authority, certificate and key.

    Raises `ConfigError` that names the setting, and never shows a password.
    """
    parts, port = _split(url)
    if username is None:
        username = None if parts.username is None else unquote(parts.username)
        if password is None and parts.password is not None:
            password = unquote(parts.password)
    elif parts.username is not None:
        raise ConfigError("username: found one in the url too, expected it in one place")
    if password is not None and username is None:
        raise ConfigError("password: found one without a username, expected both or none")
    if protocol not in ("5", "3.1.1"):
        raise ConfigError(f"protocol: found {protocol!r}, expected '5' or '3.1.1'")
    return Address(
        host=parts.hostname or "",
        port=port,
        username=username,
        password=password,
        is_version_5=protocol == "5",
        session_expiry=min(_whole_seconds("session_expiry", session_expiry), _FOR_EVER),
        receive_maximum=_bounded("receive_maximum", receive_maximum, 65_535),
        keepalive=_bounded("keepalive", _whole_seconds("keepalive", keepalive), 65_535),
        tls=_tls(parts.scheme, *files),
    )


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"url: {exc}; {_EXPECTED}") from exc
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else url[:80]
    if parts.scheme not in _PORTS:
        raise ConfigError(f"url: found {shown!r}, {_EXPECTED}")
    host = parts.hostname
    if not host or not _can_be_looked_up(host):
        raise ConfigError(f"url: found {shown!r} with the host {host or ''!r}, {_EXPECTED}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"url: found {shown!r}, {_EXPECTED}; the topic is a setting of its own")
    if port == 0:
        raise ConfigError(f"url: found {shown!r} with port 0, {_EXPECTED}")
    return parts, port or _PORTS[parts.scheme]


def _can_be_looked_up(host: str) -> bool:
    return is_host_name(host) and not any(character.isspace() or ord(character) < 32 for character in host)


def _whole_seconds(what: str, value: Any) -> int:
    seconds = seconds_of(value, what)
    if seconds < 1:
        raise ConfigError(f"{what}: found {value!r}, expected at least 1 s")
    return int(seconds)


def _bounded(what: str, value: int, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigError(f"{what}: found {value!r}, expected 1 to {most}")
    return value


def _tls(
    scheme: str, authority: File | None, certificate: File | None, key: File | None
) -> Callable[[], ssl.SSLContext] | None:
    given = {"ca_file": authority, "cert_file": certificate, "key_file": key}
    names = [name for name, file in given.items() if file is not None]
    if scheme == "mqtt":
        if names:
            raise ConfigError(f"{names[0]}: found it with mqtt://, expected mqtts://, which is with TLS")
        return None
    if key is not None and certificate is None:
        raise ConfigError("key_file: found it without cert_file, expected both")
    make = partial(_make_context, authority, certificate, key)
    make()  # wrong files are found now; at each connect they are read again, for certificates get renewed
    return make


def _make_context(authority: File | None, certificate: File | None, key: File | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as exc:
        raise ConfigError(f"ca_file: {authority}: {exc}, expected certificates in PEM") from exc
    context.sslsocket_class = _TidySocket
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except OSError as exc:
            raise ConfigError(f"cert_file: {certificate}, key_file: {key}: {exc}, expected both in PEM") from exc
    return context
