"""TLS and passwords: who may talk to whom, and what is said to who may not."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedepot import MqttDriver, SQLiteStorage
from edgedepot.storage.errors import ConfigError
from tests.drivers.peers import Publisher
from tests.drivers.running import HeldInlet, Running, error_of
from tests.models import Weather
from tests.servers import FOLDER
from tests.servers.mosquitto import Mosquitto, fetch_mosquitto
from tests.servers.packages import PackageSet, fetch, libraries
from tests.servers.process import wait_until

TOPIC = "weather/{device_id}/data"
READING = '{"temperature": 20.5}'
OPENSSL = PackageSet("openssl", "bookworm", "openssl libssl3")


def run_from(root: Path, program: str, *arguments: str) -> None:
    """Run a program of unpacked packages to its end."""
    command = ["env", f"LD_LIBRARY_PATH={libraries(root)}", str(root / "usr/bin" / program), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_certificate(folder: Path, name: str, *more: str) -> None:
    """A certificate and its key, `name`.pem and `name`.key, valid for two days."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{folder / name}.key")
    subject = ("-subj", f"/CN={name}", "-days", "2", "-out", f"{folder / name}.pem")
    run_from(fetch(FOLDER, OPENSSL), "openssl", "req", "-x509", *key, *subject, *more)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server, client and stranger (of another authority), each with .pem and .key."""
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("ca", "other"):
        make_certificate(folder, authority, "-addext", "keyUsage=critical,keyCertSign")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        signed = ("-CA", f"{folder / authority}.pem", "-CAkey", f"{folder / authority}.key")
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1")
        make_certificate(folder, name, *signed, *leaf)
    return folder


@pytest.fixture
def broker(certificates: Path) -> Iterator[Mosquitto]:
    settings = {
        "cafile": str(certificates / "ca.pem"),
        "certfile": str(certificates / "server.pem"),
        "keyfile": str(certificates / "server.key"),
        "require_certificate": "true",
    }
    with Mosquitto(settings=settings) as broker:
        yield broker


def driver(broker: Mosquitto, certificates: Path, authority: str = "ca", client: str | None = "client") -> MqttDriver:
    files: dict[str, Any] = {"ca_file": certificates / f"{authority}.pem"}
    if client is not None:
        files |= {"cert_file": certificates / f"{client}.pem", "key_file": certificates / f"{client}.key"}
    return MqttDriver(f"mqtts://127.0.0.1:{broker.port}", TOPIC, Weather, **files)


def test_with_certificates_on_both_sides(store: SQLiteStorage, broker: Mosquitto, certificates: Path) -> None:
    with Running(driver(broker, certificates), store).wait_for("connected"):
        authority, certificate, key = (str(certificates / name) for name in ("ca.pem", "client.pem", "client.key"))
        with Publisher(broker.port, (authority, certificate, key)) as sender:
            sender.send("weather/mast/data", *[READING] * 3, b"x" * 300_000)
        wait_until(lambda: store.ledger().sources.get("garden", {}).get("messages") == 4, "all are in")
    assert store.ledger().sources["garden"]["new"] == 3


def test_a_server_that_is_not_trusted(held: HeldInlet, broker: Mosquitto, certificates: Path) -> None:
    text = error_of(driver(broker, certificates, authority="other"), held)
    assert "its certificate is not trusted" in text
    assert "ca_file" in text


@pytest.mark.parametrize("client", [None, "stranger"])
def test_a_client_that_is_not_trusted(
    held: HeldInlet, broker: Mosquitto, certificates: Path, client: str | None
) -> None:
    assert f"mqtts://127.0.0.1:{broker.port}" in error_of(driver(broker, certificates, client=client), held)


def test_a_server_without_tls(held: HeldInlet, mosquitto: Mosquitto) -> None:
    garden = MqttDriver(f"mqtts://127.0.0.1:{mosquitto.port}", TOPIC, Weather)
    assert f"cannot connect to mqtts://127.0.0.1:{mosquitto.port}" in error_of(garden, held)


def test_files_that_are_none(certificates: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ca_file": tmp_path / "none.pem"}, "ca_file: .*none.pem"),
        ({"ca_file": certificates / "ca.key"}, "ca_file: .*expected certificates in PEM"),
        (
            {"cert_file": certificates / "client.pem", "key_file": certificates / "ca.key"},
            "cert_file: .*key_file: ",
        ),
        ({"key_file": certificates / "client.key"}, "key_file: found it without cert_file"),
    ]
    for settings, problem in wrong:
        with pytest.raises(ConfigError, match=problem):
            MqttDriver("mqtts://broker", TOPIC, Weather, **settings)


def test_user_and_password_may_stand_in_the_url(
    store: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    passwords = tmp_path / "passwords"
    passwords.write_text("roof:b@c/d%\n")
    run_from(fetch_mosquitto(), "mosquitto_passwd", "-U", str(passwords))
    with Mosquitto(settings={"allow_anonymous": "false", "password_file": str(passwords)}) as broker:
        garden = MqttDriver(f"mqtt://roof:b%40c%2Fd%25@127.0.0.1:{broker.port}", TOPIC, Weather)
        with Running(garden, store).wait_for("connected"):
            pass
    assert "b@c/d%" not in caplog.text
    assert "b%40c" not in caplog.text
