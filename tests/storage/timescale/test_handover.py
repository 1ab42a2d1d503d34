"""Users who may not make tables, and the SQL that somebody runs for them; comments, prefix and schema."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from edgedepot import ConfigError, Device, Field, Reading, TimescaleDBStorage
from edgedepot.cli import program
from edgedepot.storage.errors import Misconfigured
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)
COMMAND = Path(sys.executable).with_name("edgedepot")
COMMENTS = "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = %s::regclass"


class Station(Reading):
    temperature: float = Field(unit="°C", range=(-40, 80), description='in the shade, it\'s "true"; DROP TABLE')
    humidity: float | None = Field(unit="%", range=(0, None))
    rain: float | None = Field(range=(None, 500.5))
    note: str | None = None


class Tank(Reading):
    level: float | None = None


class FullerTank(Reading, measurement="tank"):
    level: float | None = None
    pressure: float | None = Field(unit="bar")


@pytest.fixture
def writer(look: Look, timescale_url: str) -> Iterator[str]:
    """The url of a user without any rights."""
    look('DROP ROLE IF EXISTS "o\'writer"')
    look('CREATE ROLE "o\'writer" LOGIN')
    yield timescale_url.replace("postgres@", "o'writer@")
    look('DROP OWNED BY "o\'writer"')
    look('DROP ROLE "o\'writer"')
    look('DROP SCHEMA IF EXISTS "My Farm" CASCADE')


def test_units_ranges_and_descriptions_are_comments(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_reading(Station, "mast", T0, {"temperature": 1.0})
    comments: dict[str, str] = dict(look(COMMENTS, "station"))
    assert comments["temperature"] == '°C, -40 to 80, in the shade, it\'s "true"; DROP TABLE'
    assert comments["humidity"] == "%, at least 0"
    assert comments["rain"] == "at most 500.5"
    assert ("note", None) in look(COMMENTS, "station")
    storage.store_reading(Tank, "mast", T0, {"level": 1.0})
    storage.store_reading(FullerTank, "mast", T0, {"pressure": 1.0})
    assert ("pressure", "bar") in look(COMMENTS, "tank")


@pytest.mark.parametrize("schema", [None, "My Farm"])
def test_what_is_handed_over_is_all_that_a_user_without_rights_needs(
    connect: Connect, look: Look, writer: str, schema: str | None
) -> None:
    storage = connect(url=writer, schema=schema, table_prefix="farm_")
    with pytest.raises(Misconfigured, match=r"lacks a right .*SQL that `edgedepot upstream schema` prints"):
        storage.store_reading(Tank, "a", T0, {"level": 1.0})
    handed_over = storage.schema_sql([Station, Tank])
    assert ("first one of the search_path of whoever runs this" in handed_over) == (schema is None)
    look(handed_over.replace("%", "%%"))
    assert storage.store_reading(Tank, "a", T0, {"level": 1.0}).accepted == 1
    assert storage.store_reading(Tank, "a", T0, {"level": 2.0}).accepted == 1
    assert storage.store_reading(Station, "a", T0, {"temperature": 1.0}).accepted == 1
    storage.save_device(Device("a", "the tank"))
    assert [(device.device_id, device.name) for device in storage.devices()] == [("a", "the tank")]
    assert storage.aggregate(Tank, "level") == {"result": 2.0}
    home = "public" if schema is None else f'"{schema}"'
    assert look(f"SELECT level FROM {home}.farm_tank") == [(2.0,)]
    assert look("SELECT hypertable_schema, hypertable_name FROM timescaledb_information.hypertables ORDER BY 2") == [
        (schema or "public", "farm_station"),
        (schema or "public", "farm_tank"),
    ]
    with pytest.raises(Misconfigured, match="must be owner"):
        storage.store_reading(FullerTank, "a", T0, {"pressure": 1.0})
    look(storage.schema_sql([FullerTank]).replace("%", "%%"))
    assert storage.store_reading(FullerTank, "a", T0, {"pressure": 1.0}).accepted == 1
    assert ("pressure", "bar") in look(COMMENTS, f"{home}.farm_tank")
    assert storage.delete_readings(FullerTank) == 1
    storage.close()


def test_a_user_who_may_makes_schema_and_prefixed_tables(connect: Connect, look: Look) -> None:
    storage = connect(schema="My Farm", table_prefix="x_")
    other = connect(schema="My Farm", table_prefix="y_")
    try:
        storage.store_reading(Tank, "a", T0, {"level": 1.0})
        other.save_device(Device("b"))
        assert look('SELECT level FROM "My Farm".x_tank') == [(1.0,)]
        assert [device.device_id for device in storage.devices()] == ["a"]
        assert [device.device_id for device in other.devices()] == ["b"]
        assert other.query_readings(Tank) == []
        info = storage.hypertable_info(Tank)
        assert info is not None
        assert info["hypertable_name"] == "x_tank"
    finally:
        look('DROP SCHEMA "My Farm" CASCADE')


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"schema": ""}, "schema: found ''"),
        ({"schema": "a\0b"}, "schema: found"),
        ({"schema": "x" * 64}, "schema: found"),
        ({"schema": "a%sb"}, "schema: found .* without %"),
        ({"table_prefix": "Farm"}, "table_prefix: found 'Farm'"),
        ({"table_prefix": "a;b"}, "table_prefix: found 'a;b'"),
        ({"table_prefix": "_a"}, "table_prefix: found"),
        ({"table_prefix": "a23456789"}, "table_prefix: found"),
    ],
)
def test_a_place_that_cannot_be_is_a_config_error(settings: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        TimescaleDBStorage("postgresql://host/db", **settings)  # type: ignore[arg-type]


def test_the_command_prints_the_sql_for_the_models_of_a_file(
    tmp_path: Path, timescale_url: str, writer: str, look: Look
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""
[gateway]
id = "roof"
[storage]
path = "gateway.db"
[models.Tank]
level = {{type = "float", required = false, unit = "m"}}
[upstreams.central]
engine = "timescaledb"
url = "{writer.replace("o'writer@", "o'writer:geheim@")}"
[upstreams.other]
engine = "influxdb"
url = "http://127.0.0.1:1"
token = "x"
org = "x"
bucket = "x"
"""
    )
    done = subprocess.run([COMMAND, "upstream", "schema", file, "central"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stdout
    assert "CREATE EXTENSION" in done.stdout
    with psycopg.connect(timescale_url) as connection:
        connection.execute(done.stdout)
    with TimescaleDBStorage(writer, gateway_id="roof") as storage:
        assert storage.store_reading(Tank, "a", T0, {"level": 1.0}).accepted == 1

    def run(*words: str) -> Result:
        return CliRunner().invoke(program, ["upstream", "schema", str(file), *words])

    plain = run("central", "--plain")
    assert "GRANT" in plain.stdout
    assert "hypertable" not in plain.stdout
    assert "EXTENSION" not in plain.stdout
    unknown = run("west")
    assert unknown.exit_code == 2
    assert "no upstream 'west'; upstreams there: central, other" in unknown.output
    influx = run("other")
    assert influx.exit_code == 2
    assert "upstreams.other is influxdb" in influx.output
