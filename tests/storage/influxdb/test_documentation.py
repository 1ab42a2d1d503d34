"""The examples of docs/influxdb.md, run as they stand there: only address and token are substituted."""

import re
from pathlib import Path
from typing import Any

import trustme

from edgedepot import InfluxDBStorage
from edgedepot.config import load
from tests.models import Weather
from tests.storage.influxdb.conftest import Connect
from tests.storage.influxdb.scripted import BUCKET, ORG, TOKEN, ScriptedInfluxDB
from tests.storage.influxdb.test_settings import tls_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "influxdb.md"
GATEWAY = '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n'


def examples(language: str, address: str, url: str) -> list[str]:
    """The document's blocks of a language, for a server that is there."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert all(address in block or "storage." in block for block in blocks)
    return [block.replace(address, url).replace('token="..."', f'token="{TOKEN}"') for block in blocks]


def test_the_python_examples(server: ScriptedInfluxDB, connect: Connect) -> None:
    storing, downsampling = examples("python", "http://central:8086", server.url)
    names: dict[str, Any] = {}
    server.buckets.clear()
    exec(storing, names)
    (point,) = server.points
    assert (point[0], dict(point[1])) == ("greenhouse", {"device_id": "bench-1", "gateway_id": "farm-3"})
    assert [bucket["name"] for bucket in server.buckets] == [BUCKET]
    assert len(server.requests) == 6  # two for the bucket, and what its organisation is; a write, two queries
    exec(downsampling, names | {"storage": connect()})
    assert [task["name"] for task in server.tasks] == [
        "edgedepot: avg of greenhouse of roof by 1h into iot_hours",
    ]


def test_the_settings_file(tmp_path: Path) -> None:
    """With the keys as a file has them; a whole gateway's, beside what the document shows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "central-ca.pem")
    with ScriptedInfluxDB(tls_of(authority)) as server:
        (text,) = examples("toml", "https://central:8086", server.url)
        assert "token" not in text.replace('token = "${INFLUXDB_TOKEN}"', "")
        more = 'gzip = false\ntimeout = "20s"\nconnect_timeout = "5s"\nbatch_lines = 2\nbatch_bytes = 9000\n'
        file = tmp_path / "gateway.toml"
        file.write_text(GATEWAY + text.replace('"central-ca.pem"', f'"{tmp_path}/central-ca.pem"') + more)
        settings = load(file, {"INFLUXDB_TOKEN": TOKEN})
        upstream = settings.upstreams["central"].make()
        assert isinstance(upstream, InfluxDBStorage)
        upstream.gateway_id = settings.gateway_id
        with upstream:
            upstream.store_readings(Weather, [("a", None, {"temperature": number}) for number in range(5)])
        assert len(server.points) == 5
        assert [body.count(b"weather") for body in server.writes] == [2, 2, 1]
        assert {request.headers["content-encoding"] for request in server.requests} == {"identity"}
        assert server.requests[0].parameters["org"] == ORG
        assert TOKEN not in repr(settings) + repr(upstream)
        file.write_text(file.read_text().replace("${INFLUXDB_TOKEN}", TOKEN))
        assert TOKEN not in repr(load(file))
