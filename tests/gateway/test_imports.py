"""What an import brings along: a script that stores does not pay for MQTT, a gateway not for tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("click", "paho", "httpx", "psycopg", "serial", "rich", "influxdb_client", "amqtt")


def loaded(statements: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after these statements."""
    code = f"import sys\n{statements}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statements", "needed"),
    [
        ("import edgedepot", set()),
        ("import edgedepot.storage", set()),
        ("from edgedepot.storage import SQLiteStorage", {"sqlite3"}),
        ("from edgedepot import Reading, SyncWorker, SQLiteStorage", {"sqlite3"}),
        (
            "from edgedepot import SQLiteStorage; from edgedepot.storage.engines import storage_from_settings",
            {"sqlite3"},
        ),
        ("from edgedepot import Gateway", set()),
        ("from edgedepot import MqttDriver", {"paho"}),
        ("from edgedepot import SerialLineDriver", {"serial"}),
        ("from edgedepot import TimescaleDBStorage", {"psycopg"}),
        ("import edgedepot.cli", {"click"}),
        ("import edgedepot.config", set()),
    ],
)
def test_an_import_brings_what_it_needs_and_no_more(statements: str, needed: set[str]) -> None:
    found = loaded(statements)
    assert found & {*HEAVY, "sqlite3"} - {"sqlite3"} | needed == needed
    assert needed <= found


def test_a_gateway_from_a_file_pays_only_for_what_it_has(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "gateway.toml").write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n[models.weather]\ntemperature = "float"\n'
        '[drivers.mast]\ntype = "serial"\nport = "/dev/none"\nmodel = "weather"\ndevice_id = "mast"\n'
        '[drivers.garden]\ntype = "mqtt"\nurl = "mqtt://localhost"\ntopic = "{device_id}"\nmodel = "weather"\n'
        '[upstreams.central]\nengine = "timescaledb"\nurl = "postgresql://localhost/iot"\n'
    )
    start = f"import edgedepot.cli, edgedepot.config\nedgedepot.config.load({str(folder / 'gateway.toml')!r}).build()"
    assert loaded(start) & set(HEAVY) == {"click", "paho", "serial", "psycopg"}
