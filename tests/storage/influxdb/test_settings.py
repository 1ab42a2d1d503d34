"""Where url, token and the rest come from; and that the token shows nowhere."""

import logging
import pickle
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgedepot import ConfigError, InfluxDBStorage
from edgedepot.storage.engines import storage_from_settings
from edgedepot.storage.errors import Misconfigured, Unreachable
from edgedepot.storage.influxdb.connections import pools
from edgedepot.storage.influxdb.settings import Settings, check_settings
from edgedepot.storage.wire import WireMeter
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
    with InfluxDBStorage(url, "t", "farm", "iot") as storage:
        assert storage.uses_tls is url.startswith("https")


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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the servers' certificates."""
    return trustme.CA()


def tls_of(authority: trustme.CA) -> ssl.SSLContext:
    """A server's, for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_tls_with_an_own_ca(tmp_path: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with ScriptedInfluxDB(tls_of(authority)) as server:
        place = (server.url, TOKEN, ORG, BUCKET)
        assert server.url.startswith("https://")
        with InfluxDBStorage(*place, gateway_id="roof", ca_file=tmp_path / "ca.pem") as storage:
            storage.store_reading(Weather, *READING)
        assert len(server.points) == 1
        for ca_file in (tmp_path / "other.pem", None):
            with InfluxDBStorage(*place, gateway_id="roof", ca_file=ca_file) as storage:
                # A gateway whose clock is not set takes every certificate for one of the future: it is tried again.
                with pytest.raises(Unreachable, match=r"does not verify: .*ca_file.*CERTIFICATE_VERIFY_FAILED"):
                    storage.store_reading(Weather, *READING)
                assert storage.health_check()["status"] == "fail"
    assert len(server.points) == 1


def test_tls_that_is_too_old(authority: trustme.CA) -> None:
    context = tls_of(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        ScriptedInfluxDB(context) as server,
        InfluxDBStorage(server.url, TOKEN, ORG, BUCKET, gateway_id="roof") as storage,
        pytest.raises(Misconfigured, match="no TLS that both"),
    ):
        storage.store_reading(Weather, *READING)


class Proxy(ThreadingHTTPServer):
    """A proxy that wants a login. It answers writes itself, and lets TLS through. `seen` are path and login."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.seen: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(204)

    def do_CONNECT(self) -> None:
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as there:
            if self._answer(200):
                back = threading.Thread(target=self._pass_on, args=(there, self.connection))
                back.start()
                self._pass_on(self.connection, there)
                back.join()

    def _answer(self, status: int) -> bool:
        login = self.headers.get("Proxy-Authorization")
        self.server.seen.append((self.path, login))
        self.send_response(status if login else 407)
        self.end_headers()
        return bool(login)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # either end may close first
            while some := source.recv(65536):
                target.sendall(some)
            target.shutdown(socket.SHUT_WR)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


def test_a_proxy_with_a_login(web_proxy: Proxy, authority: trustme.CA, tmp_path: Path) -> None:
    """Before a server without TLS it passes requests on, before one with TLS it connects to it and sees nothing."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ScriptedInfluxDB(tls_of(authority)) as server:
        for url in ("http://central.invalid:8086", server.url):
            place = {"url": url, "token": TOKEN, "org": ORG, "bucket": BUCKET, "gateway_id": "roof"}
            for login in ("user:p%40ss@", ""):
                proxy = f"http://{login}{web_proxy.address}"
                with InfluxDBStorage(**place, ca_file=tmp_path / "ca.pem", proxy=proxy) as storage:  # type: ignore[arg-type]
                    if login:
                        storage.store_reading(Weather, *READING)
                        assert "p@ss" not in repr(storage._settings)
                    else:
                        with pytest.raises(Misconfigured, match=r"proxy .* wants a login"):
                            storage.store_reading(Weather, *READING)
        (request,) = server.requests
        assert "proxy-authorization" not in request.headers
    paths = [path for path, _ in web_proxy.seen]
    assert paths[0].startswith("http://central.invalid:8086/api/v2/write?")
    assert paths[2:] == [server.url.removeprefix("https://")] * 2
    assert [login for _, login in web_proxy.seen] == ["Basic dXNlcjpwQHNz", None] * 2


def test_a_link_that_went_silent_is_noticed_within_30_seconds() -> None:
    """With nothing set; that the times are kept is for the tests beside this one to say."""
    with InfluxDBStorage("http://central:8086", bucket="iot") as storage:
        assert max(storage._settings.connect_timeout, storage._settings.timeout) <= 30


def test_a_slow_link_may_take_as_long_for_a_request_as_for_its_answer(server: ScriptedInfluxDB) -> None:
    """To urllib3 the time to connect is the time to send the first request, too, and Python counts it for all that is
    sent at once."""
    sent: list[tuple[float | None, int]] = []

    class Told(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            sent.append((self.gettimeout(), len(data)))
            super().sendall(data, flags)

    class Connection(pools(WireMeter(), 30.0)["http"].ConnectionCls):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            return Told(fileno=super()._new_conn().detach())

    connection = Connection("127.0.0.1", server.port, timeout=10)
    body = b"x" * 1_000_000
    connection.request("POST", "/api/v2/write", body=body)
    assert connection.getresponse().status == 401
    connection.close()
    assert server.writes == [body]
    assert {patience for patience, _ in sent} == {30}
    assert max(size for _, size in sent) <= 65_536


def test_a_timeout_is_kept(server: ScriptedInfluxDB, connect: Connect) -> None:
    server.script.append(NEVER)
    with pytest.raises(Unreachable, match="in time"):
        connect(timeout="200 ms").store_reading(Weather, *READING)


def test_a_server_that_is_not_there_is_no_timeout() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    storage = InfluxDBStorage(url=url, token="t", org=ORG, bucket=BUCKET, gateway_id="roof")
    with storage, pytest.raises(Unreachable, match=f"cannot connect to {url} bucket '{BUCKET}': .*refused"):
        storage.store_reading(Weather, *READING)


def test_who_cannot_be_reached_is_named_as_the_settings_have_it() -> None:
    with InfluxDBStorage("http://127.0.0.1:1", token=TOKEN, org="farm", bucket="iot", gateway_id="roof") as storage:
        with pytest.raises(Unreachable) as caught:
            storage.store_readings(Weather, [READING])
        assert str(caught.value).startswith("cannot connect to http://127.0.0.1:1 bucket 'iot': Failed to establish ")
