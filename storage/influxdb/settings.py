"""Where the server is and how to speak with it, checked without connecting. Holds secrets: `shown` may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of

Duration = str | float | timedelta

CREDENTIAL = "influxdb_token"
"""The token's name among the credentials that systemd hands to a service (LoadCredential=influxdb_token:...)."""

_EXPECTED = "expected http://host:8086 or https://host:8086"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a connection needs to know. Durations are in seconds, `batch_bytes` counts before compression."""

    url: str
    org: str
    bucket: str
    token: str | None = field(repr=False)
    ca_file: str | None
    proxy: str | None = field(repr=False)
    proxy_login: str | None = field(repr=False)
    """``user:password`` for the proxy."""
    gzip: bool
    connect_timeout: float
    timeout: float
    batch_lines: int
    batch_bytes: int

    @property
    def shown(self) -> str:
        return f"{self.url} bucket {self.bucket!r}"


def check_settings(
    *,
    url: str | None,
    token: str | None,
    org: str | None,
    bucket: str | None,
    token_file: str | os.PathLike[str] | None,
    ca_file: str | os.PathLike[str] | None,
    proxy: str | None,
    gzip: bool,
    connect_timeout: Duration,
    timeout: Duration,
    batch_lines: int,
    batch_bytes: int,
    environment: Mapping[str, str],
) -> Settings:
    """The settings, what is not given taken from the environment. Raises `ConfigError`, never with a secret in it."""
    proxy_url, proxy_login = _proxy_of(proxy)
    return Settings(
        _url_of(_given("url", url, environment)),
        _text("org", environment.get("INFLUXDB_ORG", "") if org is None else org),
        _text("bucket", _given("bucket", bucket, environment)),
        _token_of(token, token_file, environment),
        None if ca_file is None else _readable("ca_file", ca_file),
        proxy_url,
        proxy_login,
        gzip,
        _seconds("connect_timeout", connect_timeout),
        _seconds("timeout", timeout),
        _count("batch_lines", batch_lines),
        _count("batch_bytes", batch_bytes),
    )


def _given(name: str, value: str | None, environment: Mapping[str, str]) -> str:
    found = environment.get(f"INFLUXDB_{name.upper()}") if value is None else value
    if not found:
        raise ConfigError(f"InfluxDB {name} is missing: give {name}=..., or set INFLUXDB_{name.upper()}")
    return found


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"InfluxDB {name} is {value!r}, expected a text without control characters")
    return value


def _url_of(url: object) -> str:
    """The url without a slash at its end."""
    parts = _split("url", url)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"InfluxDB url holds a user or password, which go elsewhere (token=...); {_EXPECTED}")
    if parts.query or parts.fragment:
        raise ConfigError(f"InfluxDB url {url!r} holds more than an address; {_EXPECTED}")
    return urlunsplit(parts).rstrip("/")


def _proxy_of(proxy: str | None) -> tuple[str | None, str | None]:
    """The proxy's url without its login, and its login."""
    if proxy is None:
        return None, None
    parts = _split("proxy", proxy)
    if parts.username is None:
        return proxy, None
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), login


def _split(name: str, url: object) -> SplitResult:
    """The parts of an http url. Its text is not shown where it may hold a password."""
    problem = f"InfluxDB {name} is no http address that can be used; {_EXPECTED}"
    if not isinstance(url, str) or not re.fullmatch(r"https?://[!-~]+", url):
        raise ConfigError(problem)
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or an IPv6 address that is none; its text may hold the password
        usable = False
    if not usable:
        raise ConfigError(problem)
    return parts


def _token_of(
    token: str | None, token_file: str | os.PathLike[str] | None, environment: Mapping[str, str]
) -> str | None:
    """The token: as given, from the file, from INFLUXDB_TOKEN, or from systemd's credentials; None without any."""
    if token is not None and token_file is not None:
        raise ConfigError("InfluxDB token and token_file are both given, expected one of them")
    if token_file is not None:
        return _checked_token(_read(token_file), f"token_file {os.fspath(token_file)!r}")
    if token is not None:
        return _checked_token(token, "token")
    if "INFLUXDB_TOKEN" in environment:
        return _checked_token(environment["INFLUXDB_TOKEN"], "INFLUXDB_TOKEN")
    credential = Path(environment.get("CREDENTIALS_DIRECTORY", ""), CREDENTIAL)
    if "CREDENTIALS_DIRECTORY" in environment and credential.exists():
        return _checked_token(_read(credential), f"the credential {CREDENTIAL}")
    return None


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(_readable("token_file", path)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        # The error of a failed decoding quotes what it read.
        raise ConfigError(f"InfluxDB token_file {os.fspath(path)!r} cannot be read as text") from (
            exc if isinstance(exc, OSError) else None
        )


def _readable(name: str, path: str | os.PathLike[str]) -> str:
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise ConfigError(f"InfluxDB {name} {os.fspath(path)!r} is no file that can be read here")
    return os.fspath(path)


def _checked_token(token: object, source: str) -> str:
    """What can stand in an HTTP header; the text is not shown."""
    if not isinstance(token, str) or not re.fullmatch("[!-~]+", token):
        raise ConfigError(f"InfluxDB {source} holds no token: expected one word of printable ASCII characters")
    return token


def _seconds(name: str, value: Duration) -> float:
    try:
        return seconds_of(value, f"InfluxDB {name}")
    except InvalidValue as exc:
        raise ConfigError(str(exc)) from exc


def _count(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"InfluxDB {name} is {value!r}, expected a whole number from 1 up")
    return value
