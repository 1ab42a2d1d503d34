"""Tables: made from reading models, widened, shared by many gateways, and never touched by reads."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from edgedepot import Device, Field, Reading, TimescaleDBStorage, Version
from edgedepot.storage.errors import Misconfigured, NotSupported
from tests.models import Weather
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Tank(Reading, measurement="tank"):
    level: float | None = None


class TankWithPump(Reading, measurement="tank"):
    level: float | None = None
    running: bool | None = None
    Starts: int | None = None


class TankInWords(Reading, measurement="tank"):
    level: str | None = None


class Select(Reading, measurement="pg_class"):
    """Names that mean something in SQL, or in ours."""

    select: float | None = None
    Order: int | None = None
    t: str | None = None
    excluded: bool | None = None
    value: float | None = Field(unit="%s {} %(x)s")
    device: float | None = None


def columns(look: Look, table: str) -> dict[str, str]:
    rows = look(
        "SELECT column_name, data_type || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END"
        " FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
        table,
    )
    return dict(rows)


def test_the_first_write_makes_a_hypertable(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_reading(Weather, "mast", T0, {"temperature": 20.5})
    assert columns(look, "weather") == {
        "gateway_id": "text not null",
        "device_id": "text not null",
        "timestamp": "timestamp with time zone not null",
        "temperature": "double precision",
        "humidity": "double precision",
        "raining": "boolean",
        "note": "text",
        "count": "bigint",
        "quality": "smallint",
        "store_epoch": "bigint not null",
        "gateway_seq": "bigint not null",
        "received_at": "timestamp with time zone not null",
    }
    assert look("SELECT column_name, time_interval FROM timescaledb_information.dimensions") == [
        ("timestamp", timedelta(days=7))
    ]
    indexes = look("SELECT indexdef FROM pg_indexes WHERE tablename = 'weather' ORDER BY indexdef DESC")
    assert [definition.partition(" USING ")[2] for (definition,) in indexes] == [
        'btree (gateway_id, device_id, "timestamp")',
        'btree ("timestamp" DESC)',
    ]


def test_a_field_that_was_added_becomes_a_column(connect: Connect, look: Look) -> None:
    old = connect()
    old.store_reading(Tank, "a", T0, {"level": 1.0})
    new = connect()
    assert new.query_readings(TankWithPump, fields=["Starts", "level"], order="Starts") == [
        {"device_id": "a", "timestamp": T0, "Starts": None, "level": 1.0}
    ]
    assert new.aggregate(TankWithPump, "Starts", "count") == {"result": 0}
    assert "Starts" not in columns(look, "tank")
    new.store_reading(TankWithPump, "a", T0, {"running": True, "Starts": 7})
    assert columns(look, "tank")["Starts"] == "bigint"
    old.store_reading(Tank, "a", T0, {"level": 2.0})
    new.store_reading(TankWithPump, "b", T0, {"running": False})
    assert new.query_readings(TankWithPump) == [
        {"device_id": "a", "timestamp": T0, "level": 2.0, "running": True, "Starts": 7},
        {"device_id": "b", "timestamp": T0, "level": None, "running": False, "Starts": None},
    ]


_LONG = "l" * 54


@pytest.mark.parametrize(
    "names", [("tank", "tank_time", "tank_pkey"), ("tank_time", "tank"), (_LONG + "a", _LONG + "b")]
)
@pytest.mark.parametrize("handed_over", [False, True])
def test_no_index_is_in_the_way_of_another_models(
    connect: Connect, look: Look, names: tuple[str, ...], handed_over: bool
) -> None:
    storage = connect(table_prefix="eight678")
    for name in names:
        model = type("Model", (Reading,), {"__annotations__": {"level": float}}, measurement=name)
        if handed_over:
            look(storage.schema_sql([model]))
        storage.store_reading(model, "a", T0, {"level": 1.0})
    indexes = "SELECT tablename, count(*) FROM pg_indexes WHERE schemaname = 'public' GROUP BY 1 HAVING count(*) = 2"
    assert sorted(look(indexes)) == sorted((f"eight678{name}", 2) for name in names)


def test_models_of_one_measurement_take_turns_on_one_connection(storage: TimescaleDBStorage) -> None:
    for second in range(3):
        storage.store_reading(Tank, "a", T0 + timedelta(seconds=second), {"level": 1.0})
        storage.store_reading(TankWithPump, "b", T0 + timedelta(seconds=second), {"running": True})
    assert storage.aggregate(TankWithPump, "level", "count") == {"result": 3}
    assert storage.aggregate(TankWithPump, "running", "count") == {"result": 3}


def test_a_column_of_another_type_is_named_with_both_types(connect: Connect) -> None:
    storage = connect()
    storage.store_reading(Tank, "a", T0, {"level": 1.0})
    clash = r"public\.tank: field level is double precision there, but text \(str\) in reading model TankInWords"
    with pytest.raises(Misconfigured, match=clash):
        storage.store_reading(TankInWords, "a", T0, {"level": "high"})
    with pytest.raises(Misconfigured, match=clash):
        storage.query_readings(TankInWords)
    assert storage.query_readings(Tank) == [{"device_id": "a", "timestamp": T0, "level": 1.0}]


def test_a_table_of_somebody_else_is_left_alone(storage: TimescaleDBStorage, look: Look) -> None:
    look("CREATE TABLE weather (device_id integer, temperature text)")
    with pytest.raises(Misconfigured, match=r"table public\.weather was not made for readings: column gateway_id is"):
        storage.store_reading(Weather, "mast", T0, {"temperature": 20.5})
    assert columns(look, "weather") == {"device_id": "integer", "temperature": "text"}


def test_a_table_that_was_dropped_under_a_running_storage_is_made_again(
    storage: TimescaleDBStorage, look: Look
) -> None:
    storage.store_reading(Tank, "a", T0, {"level": 1.0})
    look("DROP TABLE tank")
    with pytest.raises(Misconfigured, match=r'relation "public\.tank" does not exist'):
        storage.store_reading(Tank, "a", T0, {"level": 2.0})
    storage.store_reading(Tank, "a", T0, {"level": 3.0})
    assert storage.query_readings(Tank) == [{"device_id": "a", "timestamp": T0, "level": 3.0}]


def test_reads_of_a_model_that_was_never_written_are_empty_and_make_nothing(connect: Connect, look: Look) -> None:
    storage = connect()
    assert storage.query_readings(Weather) == []
    assert storage.aggregate(Weather, "temperature") == {"result": None}
    assert storage.aggregate(Weather, "temperature", "count") == {"result": 0}
    assert storage.aggregate(Weather, "temperature", interval="1d") == []
    assert storage.delete_readings(Weather) == 0
    assert storage.devices() == []
    assert columns(look, "weather") == {}


def test_names_that_mean_something_in_sql_are_only_names(storage: TimescaleDBStorage, look: Look) -> None:
    data = {"select": 1.5, "Order": 2, "t": "x", "excluded": True, "value": 3.5, "device": 4.5}
    storage.store_reading(Select, "a", T0, data)
    storage.store_reading(Select, "a", T0, {"Order": 3})
    assert storage.query_readings(Select, order="Order") == [{"device_id": "a", "timestamp": T0, **data, "Order": 3}]
    for name in ("select", "Order", "value", "device"):
        [row] = storage.downsample(Select, name, "1d", "max", group_by="device")
        assert row == {"device_id": "a", "bucket": T0, "result": {**data, "Order": 3}[name]}
    assert storage.aggregate(Select, "t", "last") == {"result": "x"}
    assert columns(look, "pg_class")["Order"] == "bigint"
    assert storage.delete_readings(Select, "a") == 1


@pytest.mark.parametrize("made", [False, True], ids=["new table", "new column"])
def test_many_gateways_start_at_once(connect: Connect, look: Look, made: bool) -> None:
    count = 20
    if made:
        connect().store_reading(Tank, "a", T0, {"level": 1.0})
    start = threading.Barrier(count)

    def first_write(number: int) -> int:
        gateway = connect(f"gateway {number}")
        start.wait(30)
        return gateway.store_reading(TankWithPump, "a", T0, {"running": True, "Starts": number}).accepted

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(first_write, range(count))) == [1] * count
    assert look('SELECT count(*), sum("Starts") FROM tank WHERE running') == [(count, sum(range(count)))]
    assert look("SELECT count(*) FROM timescaledb_information.hypertables") == [(1,)]


def test_a_user_without_the_right_to_make_tables_writes_into_those_there_are(
    connect: Connect, look: Look, timescale_url: str
) -> None:
    connect().store_reading(Tank, "a", T0, {"level": 1.0})
    look("DROP ROLE IF EXISTS writer")
    look("CREATE ROLE writer LOGIN")
    look("GRANT SELECT, INSERT, UPDATE ON tank TO writer")
    try:
        writer = connect("cellar", url=timescale_url.replace("postgres@", "writer@"))
        assert writer.store_reading(Tank, "a", T0, {"level": 2.0}).accepted == 1
        with pytest.raises(Misconfigured, match=r"lacks a right on .*writer@.*: grant it.*SQLSTATE 42501"):
            writer.store_reading(Weather, "a", T0, {"temperature": 2.0})
        with pytest.raises(Misconfigured, match="must be owner of table tank"):
            writer.store_reading(TankWithPump, "a", T0, {"running": True})
        assert writer.query_readings(Tank) == [{"device_id": "a", "timestamp": T0, "level": 2.0}]
        writer.close()
    finally:
        look("DROP OWNED BY writer")
        look("DROP ROLE writer")


def test_a_search_path_that_leads_nowhere_is_named(connect: Connect, timescale_url: str) -> None:
    storage = connect(url=f"{timescale_url}?options=-csearch_path%3Dnowhere")
    with pytest.raises(Misconfigured, match="no schema to work in"):
        storage.store_reading(Tank, "a", T0, {"level": 1.0})


def test_another_schema_of_the_search_path_is_worked_in(connect: Connect, look: Look, timescale_url: str) -> None:
    look('CREATE SCHEMA "My Farm"')
    storage = connect(url=f"{timescale_url}?options=-csearch_path%3D%22My%5C%20Farm%22")
    storage.store_reading(Tank, "a", T0, {"level": 1.0})
    assert look('SELECT level FROM "My Farm".tank') == [(1.0,)]
    assert look("SELECT hypertable_schema FROM timescaledb_information.hypertables") == [("My Farm",)]
    assert [device.device_id for device in storage.devices()] == ["a"]


@pytest.fixture(scope="module")
def plain_url() -> Iterator[str]:
    with TimescaleServer(extension=False) as server:
        yield server.url(server.create_database())


_TABLES = (
    "SELECT table_name, ordinal_position, column_name, data_type, collation_name, is_nullable, column_default,"
    " col_description(table_name::regclass, ordinal_position)"
    " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
)


def test_a_plain_postgresql_has_the_same_tables_and_says_so_once(
    plain_url: str, caplog: pytest.LogCaptureFixture, storage: TimescaleDBStorage, look: Look
) -> None:
    with TimescaleDBStorage(plain_url, gateway_id="roof") as plain, caplog.at_level(logging.WARNING):
        for one in (plain, storage):
            one.store_reading(Tank, "a", T0, {"level": 1.0})
            one.store_reading(TankWithPump, "a", T0, {"running": True})
            one.store_reading(Weather, "a", T0, {"temperature": 1.0})
            one.save_device(Device("a"))
        assert plain.downsample(Tank, "level", "1w", tz="Europe/Zurich")[0]["result"] == 1.0
        assert plain.health_check()["version"].startswith("PostgreSQL 17")
        assert "TimescaleDB" not in plain.health_check()["version"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["postgresql"]
    assert "has no TimescaleDB" in caplog.text
    with psycopg.connect(plain_url) as connection:
        for statement in _TABLES:
            found = connection.execute(statement).fetchall()
            assert found == look(statement)
            assert len(found) >= 5


def test_what_needs_the_extension_says_how_to_get_it(plain_url: str) -> None:
    calls: tuple[Callable[[TimescaleDBStorage], object], ...] = (
        lambda storage: storage.create_hypertable(Tank),
        lambda storage: storage.drop_chunks(Tank, "1 day"),
        lambda storage: storage.create_retention_policy(Tank, "1 day"),
        lambda storage: storage.remove_compression_policy(Tank),
        lambda storage: storage.continuous_aggregate("hours", Tank, "level"),
        lambda storage: storage.refresh_continuous_aggregate("hours"),
        lambda storage: storage.drop_continuous_aggregate("hours"),
    )
    with TimescaleDBStorage(plain_url, gateway_id="roof") as storage:
        storage.store_reading(Tank, "a", T0, {"level": 1.0})
        for call in calls:
            with pytest.raises(NotSupported, match=r" need TimescaleDB, which postgresql://.* CREATE EXTENSION"):
                call(storage)
        assert storage.hypertable_info(Tank) is None
        assert storage.continuous_aggregates() == []


def test_a_column_that_is_altered_under_an_open_session_gets_no_bits_of_another_type(
    storage: TimescaleDBStorage, look: Look
) -> None:
    def version(second: int) -> Version:
        return Version("mast", T0 + timedelta(seconds=second), {"temperature": 20.5}, None, 1, second + 1)

    storage.store_readings(Weather, [version(0)])
    look("ALTER TABLE weather ALTER COLUMN temperature TYPE bigint")
    for _ in range(2):
        with pytest.raises(Misconfigured, match="field temperature is bigint there, but double precision"):
            storage.store_readings(Weather, [version(1)])
    look("ALTER TABLE weather ALTER COLUMN temperature TYPE double precision")
    assert storage.store_readings(Weather, [version(1)]).accepted == 1
    assert look("SELECT temperature FROM weather ORDER BY timestamp")[1] == (20.5,)
