"""Where url, token and the rest come from; and that the token shows nowhere."""

import logging
import pickle
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgedepot import ConfigError, InfluxDBStorage
from edgedepot.storage.engines import storage_from_settings
from edgedepot.storage.errors import Misconfigured, Unreachable
from edgedepot.storage.influxdb.settings import Settings, check_settings
from tests.models import Weather
from tests.servers.process import free_port
from tests.storage.influxdb.conftest import Connect
from tests.storage.influxdb.scripted import BUCKET, NEVER, ORG, TOKEN, Answer, ScriptedInfluxDB

READING = ("a", None, {"temperature": 1})
DEFAULTS: dict[str, Any] = {
    "url": "http://central:8086", "token": "t", "org": "farm", "bucket": "iot", "token_file": None, "ca_file": None,
    "proxy": None, "gzip": True, "connect_timeout": 10, "timeout": 30, "batch_lines": 1, "batch_bytes": 1,
}  # fmt: skip


def check(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    return check_settings(**DEFAULTS | given, environment=environment or {})


# -- the token ------------------------------------------------------------------------------------------------------


def test_what_is_given_goes_before_the_environment() -> None:
    names = {"INFLUXDB_URL": "http://other", "INFLUXDB_TOKEN": "other", "INFLUXDB_ORG": "o", "INFLUXDB_BUCKET": "o"}
    found = check(names)
    assert (found.url, found.token, found.org, found.bucket) == ("http://central:8086", "t", "farm", "iot")
    found = check(names, url=None, token=None, org=None, bucket=None)
    assert (found.url, found.token, found.org, found.bucket) == ("http://other", "other", "o", "o")


def test_token_from_file_and_from_systemd(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "influxdb_token").write_text("from-systemd\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert check(environment, token=None).token == "from-systemd"
    assert check(environment | {"INFLUXDB_TOKEN": "from-env"}, token=None).token == "from-env"
    assert check({"INFLUXDB_TOKEN": "from-env"}, token=None, token_file=tmp_path / "secret").token == "from-file"
    assert check({"CREDENTIALS_DIRECTORY": "/nowhere"}, token=None).token is None
    assert check(token=None).token is None  # VictoriaMetrics needs none


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "umläut", "tab\t", 7])
def test_what_is_no_token(token: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no token") as caught:
        check(token=token)
    assert str(token) not in str(caught.value) or token == ""
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as text") as caught:
        check(token=None, token_file=tmp_path / "secret")
    assert caught.value.__cause__ is None


def test_two_tokens_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both given"):
        check(token_file=tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"token_file '.*secret' is no file"):
        check(token=None, token_file=tmp_path / "secret")


def test_the_token_shows_nowhere(
    server: ScriptedInfluxDB, connect: Connect, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    storage = connect()
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    storage.store_readings(Weather, [READING])
    server.script.append(Answer(500, "broken"))
    with pytest.raises(Unreachable) as caught:
        storage.store_readings(Weather, [READING])
    server.script.append(Answer(401, "unauthorized access"))
    with pytest.raises(Misconfigured) as refused:
        storage.query_readings(Weather)
    shown = [repr(storage), str(storage), repr(storage._settings), str(caught.value), repr(caught.value.__cause__)]
    shown += [str(caught.value.__cause__), str(refused.value), str(refused.value.__cause__), caplog.text]
    shown += [*capfd.readouterr(), str(storage.health_check())]
    assert server.requests[0].headers["authorization"] == f"Token {TOKEN}"
    assert not [text for text in shown if TOKEN in text]
    assert TOKEN in pickle.dumps(storage._settings).decode(errors="replace")  # it is there, so that this test can fail


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://central:8086/", "http://central:8086"),
        ("https://example.org/influx/", "https://example.org/influx"),
        ("http://[::1]:8086", "http://[::1]:8086"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert check(url=url).url == shown


@pytest.mark.parametrize(
    "url",
    ["central:8086", "ftp://central", "http://", "http://central:port", "http://central:0", "http://cen tral", 7,
     "http://central?org=x", "http://central#x", "http://[::1", "http://central\r\nX: y"],
)  # fmt: skip
def test_what_is_no_url(url: Any) -> None:
    with pytest.raises(ConfigError, match="InfluxDB url"):
        check(url=url)


def test_a_login_in_the_url_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="go elsewhere") as caught:
        check(url="http://user:hunter2@central:8086")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("missing", ["url", "bucket"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"{missing} is missing: give {missing}=..., or set INFLUXDB_"):
        check(**{missing: None})


@pytest.mark.parametrize(
    "wrong",
    [{"org": "a\nb"}, {"bucket": 7}, {"timeout": "soon"}, {"connect_timeout": 0}, {"batch_lines": 0},
     {"batch_bytes": True}, {"ca_file": "/nowhere.pem"}, {"proxy": "proxy:3128"}, {"proxy": "http://u:hunter2@"}],
)  # fmt: skip
def test_settings_that_cannot_be_right(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"InfluxDB {next(iter(wrong))}") as caught:
        check(**wrong)
    assert "hunter2" not in str(caught.value)


def test_upper_case_and_lower_case_keys(server: ScriptedInfluxDB) -> None:
    upper = {
        "ENGINE": "edgedepot.storage.InfluxDBStorage", "INFLUXDB_URL": server.url, "INFLUXDB_TOKEN": TOKEN,
        "INFLUXDB_ORG": ORG, "INFLUXDB_BUCKET": BUCKET, "GATEWAY_ID": "roof",
    }  # fmt: skip
    lower = {
        "engine": "influxdb", "url": server.url, "token": TOKEN, "org": ORG, "bucket": BUCKET, "gateway_id": "roof",
        "timeout": "5s", "gzip": False,
    }  # fmt: skip
    for settings in (upper, lower):
        with storage_from_settings(settings) as storage:
            storage.store_reading(Weather, *READING)
    assert len(server.points) == 2
    assert [request.headers["content-encoding"] for request in server.requests] == ["gzip", "identity"]


@pytest.mark.parametrize("gateway_id", ["", "a\0b", 7])
def test_what_is_no_gateway(connect: Connect, gateway_id: Any) -> None:
    with pytest.raises(ConfigError, match="gateway_id"):
        connect(gateway_id=gateway_id)


# -- on the way -----------------------------------------------------------------------------------------------------


def test_tls_with_an_own_ca(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedInfluxDB(context) as server:
        place = (server.url, TOKEN, ORG, BUCKET)
        assert server.url.startswith("https://")
        with InfluxDBStorage(*place, gateway_id="roof", ca_file=tmp_path / "ca.pem") as storage:
            storage.store_reading(Weather, *READING)
        assert len(server.points) == 1
        for ca_file in (tmp_path / "other.pem", None):
            with InfluxDBStorage(*place, gateway_id="roof", ca_file=ca_file) as storage:
                # A gateway whose clock is not set takes every certificate for one of the future: it is tried again.
                with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    storage.store_reading(Weather, *READING)
                assert storage.health_check()["status"] == "fail"
    assert len(server.points) == 1


def test_a_proxy_with_a_login() -> None:
    seen: list[tuple[str, str | None]] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.headers.get("Proxy-Authorization")))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204 if seen[-1][1] else 407)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        address = f"127.0.0.1:{proxy.server_address[1]}"
        try:
            for login in ("user:p%40ss@", ""):
                place = {"url": "http://central.invalid:8086", "org": ORG, "bucket": BUCKET, "gateway_id": "roof"}
                with InfluxDBStorage(**place, proxy=f"http://{login}{address}") as storage:  # type: ignore[arg-type]
                    if login:
                        storage.store_reading(Weather, *READING)
                        assert "p@ss" not in repr(storage._settings)
                    else:
                        with pytest.raises(Misconfigured, match=r"proxy .* wants a login"):
                            storage.store_reading(Weather, *READING)
        finally:
            proxy.shutdown()
            thread.join()
    assert seen[0][0].startswith("http://central.invalid:8086/api/v2/write?")
    assert [login for _, login in seen] == ["Basic dXNlcjpwQHNz", None]


def test_a_timeout_is_kept(server: ScriptedInfluxDB, connect: Connect) -> None:
    server.script.append(NEVER)
    with pytest.raises(Unreachable, match="in time"):
        connect(timeout="200 ms").store_reading(Weather, *READING)


def test_a_server_that_is_not_there_is_no_timeout() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    storage = InfluxDBStorage(url=url, token="t", org=ORG, bucket=BUCKET, gateway_id="roof")
    with storage, pytest.raises(Unreachable, match=f"cannot connect to {url} bucket '{BUCKET}': .*refused"):
        storage.store_reading(Weather, *READING)
