"""The TOML file: what it becomes, and the exact line for every way in which it can be wrong."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import ConfigError, MqttDriver, SerialLineDriver, SQLiteStorage, TimescaleDBStorage
from edgedepot.config import load, load_storage
from edgedepot.storage.reading import Field, define_model
from tests.gateway.scripted import eventually

HEAD = """
[gateway]
id = "roof"

[storage]
path = "gateway.db"

[models.weather]
temperature = "float"
"""
MAST = """
[drivers.mast]
type = "serial"
port = "/dev/ttyUSB0"
model = "weather"
device_id = "mast"
"""
GARDEN = """
[drivers.garden]
type = "mqtt"
url = "mqtt://localhost"
topic = "garden/{device_id}/data"
model = "weather"
"""
CENTRAL = """
[upstreams.central]
engine = "timescaledb"
url = "postgresql://me:hush@central/iot"
"""
DURATION = 'a duration such as "10s", "500 ms", "5 minutes" or "1d"'
NAME = "expected 1 to 63 letters, digits, _, . and -, starting with a letter or a digit"
TYPES = '"float", "int", "bool", "str"'

WRONG = {
    # syntax: the line
    "broken table": ("[gateway\nid = 3", ":1: Expected ']' at the end of a table declaration, in column 9"),
    "no quotes": ("[gateway]\nid = roof", ":2: Invalid value; a text stands in quotes, in column 6"),
    "open string": ('[gateway]\nid = "roof', ":2: Unterminated string, up to the end"),
    "key twice": ('[gateway]\nid = "a"\nid = "b"\n[storage]', ":3: Cannot overwrite a value, in column 9"),
    # sections
    "unknown section": (HEAD + "[driver.mast]", ': driver: unknown key (did you mean "drivers"?)'),
    "no table": (
        HEAD + "[upstreams]\ncentral = 3",
        ": upstreams.central: found 3, expected a table: [upstreams.central]",
    ),
    "no storage": ('[gateway]\nid = "roof"', ": storage.path: missing, expected a path"),
    "unknown gateway key": (
        '[gateway]\nname = "roof"\n[storage]\npath = "x"',
        ": gateway.name: unknown key; known here: id",
    ),
    "gateway id no text": ("[gateway]\nid = 7\n[storage]\npath = 'x'", ": gateway.id: found 7, expected a text"),
    "gateway id": ("[gateway]\nid = 'a b'\n[storage]\npath = 'x'", f': gateway.id: found "a b", {NAME}'),
    # the store
    "no folder": (
        '[storage]\npath = "no/gateway.db"',
        ': storage.path: found "{}/no/gateway.db", but there is no folder {}/no',
    ),
    "a folder": ("[storage]\npath = '.'", ': storage.path: found "{}", which is a folder, expected a file'),
    "duration": (
        '[storage]\npath = "x"\nflush_interval = "often"',
        f': storage.flush_interval: found "often", expected {DURATION}',
    ),
    "negative duration": (
        '[storage]\npath = "x"\nflush_interval = -1',
        f": storage.flush_interval: found -1, expected {DURATION}",
    ),
    "months where time is short": (
        '[storage]\npath = "x"\nflush_interval = "1 month"',
        f': storage.flush_interval: found "1 month", expected {DURATION}',
    ),
    "duration in a table": (
        '[storage]\npath = "x"\n[storage.keep]\nweather = "90 days"\n"*" = "1 yaer"',
        f': storage.keep: "*": found "1 yaer", expected {DURATION}',
    ),
    "size": (
        '[storage]\npath = "x"\nkeep_bytes = "2 gigs"',
        ": storage.keep_bytes: found '2 gigs', expected a size such as '500 MB' or '2 GB', or a number of bytes, "
        "at least 1 MB",
    ),
    "age of a model that is not there": (
        HEAD + '[storage.keep]\nWeather = "90 days"\nwether = "30 days"\n"*" = "1 day"',
        ': storage.keep.wether: is no model declared under [models]: "weather" (did you mean "weather"?)',
    ),
    "bytes of a model that is not there": (
        HEAD + MAST + '[storage.keep_bytes]\n"*" = "2 GB"\nwind = "90 MB"',
        ': storage.keep_bytes.wind: is no model declared under [models]: "weather"',
    ),
    "choice": (
        '[storage]\npath = "x"\ndurability = "full"',
        ': storage.durability: found "full", expected one of "power", "process"',
    ),
    "path no text": ("[storage]\npath = 3", ": storage.path: found 3, expected a path"),
    "read only": (
        '[storage]\npath = "x"\nread_only = true',
        ": storage.read_only: unknown key; known here: busy_timeout, durability, flush_interval, fold_interval, keep, "
        "keep_bytes, keep_pending, path, piece_rows, sync_interval, uncertain_times, when_full",
    ),
    "gateway_id": (
        '[storage]\npath = "x"\ngateway_id = "roof"',
        ": storage.gateway_id: unknown key; the gateway's name is `id` under [gateway]",
    ),
    "engine": (
        '[storage]\nengine = "sqlit"\npath = "x"',
        ': storage.engine: found "sqlit", expected one of influxdb, sqlite, timescaledb, or a dotted path'
        ' (did you mean "sqlite"?)',
    ),
    "engine not there": (
        '[storage]\nengine = "nowhere.Storage"\npath = "x"',
        ": storage.engine: found \"nowhere.Storage\", which cannot be imported: No module named 'nowhere'",
    ),
    "engine not in module": (
        '[storage]\nengine = "json.Storage"',
        ': storage.engine: found "json.Storage", but module json has no Storage',
    ),
    "engine is none": (
        '[storage]\nengine = "pathlib.Path"',
        ': storage.engine: found "pathlib.Path", which is no BaseStorage',
    ),
    # models
    "no model": (HEAD + "[models.wind]", ": models.wind: declares no field"),
    "model no table": (
        "[storage]\npath = 'x'\n[models]\nwind = 3",
        ': models.wind: found 3, expected a table with a line for each field: temperature = "float"',
    ),
    "field type": (
        HEAD + "[models.wind]\nspeed = 'flaot'",
        f': models.wind.speed: found "flaot", expected one of {TYPES} (did you mean "float"?)',
    ),
    "field no type": (
        HEAD + "[models.wind]\nspeed = { unit = 'm/s' }",
        f": models.wind.speed.type: missing, expected one of {TYPES}",
    ),
    "field key": (
        HEAD + "[models.wind]\nspeed = { type = 'float', requird = false }",
        ': models.wind.speed.requird: unknown key (did you mean "required"?)',
    ),
    "field range": (
        HEAD + "[models.wind]\nspeed = { type = 'float', range = [0] }",
        ": models.wind.speed.range: found [0], expected a list of 2: a number, a number",
    ),
    "field range turned": (
        HEAD + "[models.wind]\nspeed = { type = 'float', range = [1, 0] }",
        ": models.wind: field 'speed': range is (1.0, 0.0), expected the lower end first",
    ),
    "field reserved": (HEAD + "[models.wind]\ntimestamp = 'int'", ": models.wind: field name 'timestamp' is reserved"),
    "fields alike": (
        HEAD + "[models.wind]\na = 'int'\nA = 'int'",
        ": models.wind: fields 'a' and 'A' differ by case only",
    ),
    "models alike": (
        HEAD + "[models.Weather]\na = 'int'",
        ": models.Weather: another model has the same name but for upper and lower case",
    ),
    "model name": (
        HEAD + "[models.'a b']\na = 'int'",
        ": models.\"a b\": measurement 'a b' is not 1 to 55 lowercase letters, digits and _, starting with a letter",
    ),
    # drivers
    "no type": (
        HEAD + "[drivers.mast]\nport = 'x'",
        ": drivers.mast.type: missing, expected one of mqtt, serial, or a dotted path",
    ),
    "type": (
        HEAD + "[drivers.mast]\ntype = 'serail'",
        ': drivers.mast.type: found "serail", expected one of mqtt, serial, or a dotted path (did you mean "serial"?)',
    ),
    "type no text": (
        HEAD + "[drivers.mast]\ntype = 3",
        ": drivers.mast.type: found 3, expected one of mqtt, serial, or a dotted path",
    ),
    "driver name": (HEAD + MAST.replace("drivers.mast", "drivers.'the mast'"), f': drivers."the mast": {NAME}'),
    "driver name taken": (
        HEAD + MAST.replace("drivers.mast", "drivers.direct"),
        ": drivers.direct: readings that Python code stores itself are booked under that name, expected another",
    ),
    "missing option": (HEAD + MAST.replace("port", "#"), ": drivers.mast.port: missing, expected a text"),
    "number": (
        HEAD + MAST + "baudrate = 'fast'",
        ': drivers.mast.baudrate: found "fast", expected a whole number',
    ),
    "true is no number": (
        HEAD + MAST + "baudrate = true",
        ": drivers.mast.baudrate: found true, expected a whole number",
    ),
    "impossible number": (
        HEAD + MAST + "baudrate = -1",
        ": drivers.mast.baudrate: found -1, expected a number such as 9600 or 115200",
    ),
    "unknown option": (
        HEAD + MAST + "baudrat = 9600",
        ": drivers.mast: unknown setting 'baudrat' (did you mean \"baudrate\"?); format 'json' takes no options",
    ),
    "format": (
        HEAD + MAST + "format = 'cvs'",
        ': drivers.mast.format: found "cvs", expected one of csv, json, keyvalue, value, or a dotted path'
        ' (did you mean "csv"?)',
    ),
    "format option": (
        HEAD + MAST + "format = 'csv'\ncolumns = 'temperature'",
        ': drivers.mast.columns: found "temperature", expected a list, each item a text',
    ),
    "model": (
        HEAD + MAST.replace('"weather"', '"wether"'),
        ': drivers.mast.model: found "wether", expected a model declared under [models]: "weather"',
    ),
    "no models": (
        "[storage]\npath = 'x'" + MAST,
        ': drivers.mast.model: found "weather", expected a model, but none is declared under [models]',
    ),
    "mqtt url": (
        HEAD + GARDEN.replace("mqtt://", "http://"),
        ": drivers.garden.url: found 'http://localhost', expected mqtt://host, mqtt://user:password@host:1883 or "
        "mqtts://host:8883",
    ),
    "mqtt protocol": (
        HEAD + GARDEN + "protocol = 5",
        ': drivers.garden.protocol: found 5, expected one of "5", "3.1.1"',
    ),
    "secret not set": (
        HEAD + GARDEN + 'password = "${HUSH}"',
        ': drivers.garden.password: found "${HUSH}", but the environment variable HUSH is not set',
    ),
    # upstreams
    "no gateway id": (
        HEAD.replace("id =", "#") + CENTRAL,
        ": gateway.id: missing, expected a name: upstreams tell gateways apart by it",
    ),
    "no engine": (
        HEAD + "[upstreams.central]\nurl = 'x'",
        ": upstreams.central.engine: missing, expected one of influxdb, sqlite, timescaledb, or a dotted path",
    ),
    "no url": (
        HEAD + "[upstreams.central]\nengine = 'timescaledb'",
        ": upstreams.central.url: missing, expected a text",
    ),
    "upstream url": (
        HEAD + CENTRAL.replace("postgresql", "mysql"),
        ": upstreams.central: TimescaleDB url 'mysql://me:***@central/iot': expected "
        "postgresql://user:password@host:5432/database",
    ),
    "not from there": (
        HEAD.replace('path = "gateway.db"', 'engine = "timescaledb"\nurl = "postgresql://central/iot"') + CENTRAL,
        ': storage.engine: found "timescaledb", which nothing can be forwarded from',
    ),
    "start": (
        HEAD + CENTRAL + "start = 'newest'",
        ': upstreams.central.start: found "newest", expected "oldest", "now" or a time with its zone, such as '
        "2026-01-31T12:00:00+01:00",
    ),
    "start no time": (
        HEAD + CENTRAL + "start = 3",
        ': upstreams.central.start: found 3, expected "oldest", "now" or a time with its zone, such as '
        "2026-01-31T12:00:00+01:00",
    ),
    "start a day": (
        HEAD + CENTRAL + "start = 2026-01-01",
        ': upstreams.central.start: found 2026-01-01, expected "oldest", "now" or a time with its zone, such as '
        "2026-01-31T12:00:00+01:00",
    ),
    "start without zone": (
        HEAD + CENTRAL + "start = 2026-01-01T12:00:00",
        ": upstreams.central.start: found 2026-01-01T12:00:00, which has no zone; expected a time with its zone, such "
        "as 2026-01-31T12:00:00+01:00",
    ),
    "start without zone as text": (
        HEAD + CENTRAL + "start = '2026-01-01'",
        ': upstreams.central.start: found "2026-01-01", which has no zone; expected a time with its zone, such as '
        "2026-01-31T12:00:00+01:00",
    ),
    "models unknown": (
        HEAD + CENTRAL + "models = ['weather', 'wether']",
        ': upstreams.central.models: found "wether", expected models declared under [models]: "weather"'
        ' (did you mean "weather"?)',
    ),
    "models unknown, and none there": (
        '[gateway]\nid = "roof"\n[storage]\npath = "x"' + CENTRAL + "models = ['weather']",
        ': upstreams.central.models: found "weather", expected models declared under [models]: none',
    ),
    "models no list": (
        HEAD + CENTRAL + "models = 'weather'",
        ': upstreams.central.models: found "weather", expected a list of models; without it, all are forwarded',
    ),
    "models empty": (
        HEAD + CENTRAL + "models = []",
        ": upstreams.central.models: found [], expected a list of models; without it, all are forwarded",
    ),
    "devices": (
        HEAD + CENTRAL + "devices = ['mast', 3]",
        ': upstreams.central.devices: found ["mast", 3], expected a list of devices or patterns; without it, all are '
        "forwarded",
    ),
    "batch_size": (
        HEAD + CENTRAL + "batch_size = 0",
        ": upstreams.central.batch_size: found 0, expected a number of rows from 1 up",
    ),
    "backoff no pair": (
        HEAD + CENTRAL + "backoff = '60s'",
        ": upstreams.central.backoff: found '60s', expected the shortest and the longest wait, such as "
        '["200 ms", "60s"]',
    ),
    "backoff no duration": (
        HEAD + CENTRAL + "backoff = ['1s', 'long']",
        ": upstreams.central.backoff: found 'long', expected a duration such as '10s', '500 ms', '5 minutes' or '1d'",
    ),
    "backoff the wrong way round": (
        HEAD + CENTRAL + "backoff = ['60s', '1s']",
        ": upstreams.central.backoff: found ['60s', '1s'], expected the shorter wait first",
    ),
    "upstream in no folder": (
        HEAD + '[upstreams.copy]\nengine = "sqlite"\npath = "no/copy.db"',
        ': upstreams.copy.path: found "{}/no/copy.db", but there is no folder {}/no',
    ),
    "upstream in the store's file": (
        HEAD + '[upstreams.copy]\nengine = "sqlite"\npath = "./gateway.db"',
        ': upstreams.copy.path: found "{}/gateway.db", which storage has',
    ),
    "two upstreams in a file": (
        HEAD + '[upstreams]\na = { engine = "sqlite", path = "copy.db" }\nb = { engine = "sqlite", path = "copy.db" }',
        ': upstreams.b.path: found "{}/copy.db", which upstreams.a has',
    ),
}


def refused(folder: Path, text: str) -> list[str]:
    file = folder / "gateway.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environment={})
    return str(caught.value).splitlines()


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_gets_its_line(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]
    assert refused(tmp_path, text) == [f"{tmp_path}/gateway.toml{expected.replace('{}', str(tmp_path))}"]


def test_a_driver_may_bring_a_model_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(HEAD + '[storage.keep]\nown = "1 day"\n[drivers.own]\ntype = "tests.gateway.third_party.Own"')
    assert load(file, environment={}).storage.options["keep"] == {"own": "1 day"}


def test_start_is_an_upstreams_alone(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, HEAD.replace("[models", "start = 'now'\n[models"))
    assert "storage.start: unknown key" in line


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = (
        '[gatway]\nid = "roof"\n[storage]\n[models.weather]\ntemperature = "flaot"\n'
        + MAST.replace('"mast"', "3")
        + GARDEN.replace("{device_id}", "{device}")
        + CENTRAL.replace("url", "uri")
    )
    keys = [line.removeprefix(f"{tmp_path}/gateway.toml: ").split(": ")[0] for line in refused(tmp_path, text)]
    assert keys == [
        "gatway",
        "models.weather.temperature",
        "storage.path",
        "drivers.mast.device_id",
        "upstreams.central.uri",
        "upstreams.central.url",
        "gateway.id",
    ]


def test_a_misspelt_key_hides_no_other_mistake(tmp_path: Path) -> None:
    lines = refused(
        tmp_path, HEAD + CENTRAL.replace("postgresql", "mysql") + 'max_rat = "20 kB/s"\nmodels = ["wether"]'
    )
    assert [line.removeprefix(f"{tmp_path}/gateway.toml: ")[:50] for line in lines] == [
        "upstreams.central.max_rat: unknown key (did you me",
        "upstreams.central: TimescaleDB url 'mysql://me:***",
        'upstreams.central.models: found "wether", expected',
    ]


def test_a_wrong_model_is_not_held_against_its_drivers(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, HEAD.replace('"float"', '"flaot"') + MAST + GARDEN)
    assert "models.weather.temperature" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff", "is no text in UTF-8: byte 0 is 0xff"), (None, "cannot be read: No such file or directory")],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None, expected: str) -> None:
    file = tmp_path / "gateway.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: {expected}"


def test_what_a_good_file_becomes(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        HEAD
        + 'humidity = { type = "int", unit = "%", range = [0, 100], required = false, description = "relative" }\n'
        + "pressure = { type = 'float', range = [0, inf], required = false }\n"
        + MAST
        + 'format = "csv"\ncolumns = ["temperature", "humidity"]\n'
        + GARDEN
        + 'password = "a${SECRET}z"\nusername = "$${SECRET}"\n'
        + CENTRAL
        + "[upstreams.copy]\nengine = 'sqlite'\npath = 'copy.db'\n"
    )
    settings = load(file, environment={"SECRET": "b"})
    assert settings.gateway_id == "roof"
    assert settings.storage.target is SQLiteStorage
    assert settings.storage.options == {"path": tmp_path / "gateway.db"}
    temperature, humidity, pressure = settings.models["weather"].__fields__
    assert (temperature.name, temperature.type, temperature.required) == ("temperature", float, True)
    assert (humidity.type, humidity.unit, humidity.required, humidity.low, humidity.high) == (int, "%", False, 0, 100)
    assert humidity.description == "relative"
    assert (pressure.low, pressure.high) == (0, None)
    assert settings.drivers["mast"].target is SerialLineDriver
    assert settings.drivers["mast"].options["columns"] == ["temperature", "humidity"]
    assert settings.drivers["garden"].target is MqttDriver
    assert settings.drivers["garden"].options["model"] is settings.models["weather"]
    assert settings.drivers["garden"].options["password"] == "abz"
    assert settings.drivers["garden"].options["username"] == "${SECRET}"
    assert settings.upstreams["central"].target is TimescaleDBStorage
    assert sorted(settings.upstreams) == ["central", "copy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.toml"], "checking opened something"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", {}),
        ("start = 'oldest'", {"start": "oldest"}),
        ("start = 'now'\ndevices = ['mast', 'pump-*']", {"start": "now", "devices": ["mast", "pump-*"]}),
        (
            "max_rate = '20 kB/s'\nmax_per_day = '50 MB'\nwindows = ['22:00-06:00 Europe/Zurich']\nevery = '1 minute'",
            {
                "max_rate": "20 kB/s",
                "max_per_day": "50 MB",
                "windows": ["22:00-06:00 Europe/Zurich"],
                "every": "1 minute",
            },
        ),
        ("batch_size = 500\nbackoff = ['1s', 300]", {"batch_size": 500, "backoff": ["1s", 300]}),
        ("start = 2026-01-31T12:00:00+01:00", {"start": datetime(2026, 1, 31, 11, tzinfo=UTC)}),
        ("start = '2026-01-31T11:00Z'", {"start": datetime(2026, 1, 31, 11, tzinfo=UTC)}),
    ],
)
def test_what_an_upstream_gets(tmp_path: Path, lines: str, expected: dict[str, object]) -> None:
    (tmp_path / "gateway.toml").write_text(HEAD + CENTRAL + lines)
    settings = load(tmp_path / "gateway.toml")
    assert settings.forwarding["central"] == expected
    assert sorted(settings.upstreams["central"].options) == ["url"]


def test_the_page_about_upstreams(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "upstreams.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    file = tmp_path / "gateway.toml"
    file.write_text(HEAD.replace("models.weather", "models.weatherstation") + example)
    settings = load(file, environment={"LAB_TOKEN": "secret"})
    assert settings.forwarding["central"] == {}
    assert settings.forwarding["lab"] == {
        "start": datetime(2026, 1, 1, tzinfo=UTC),
        "models": [settings.models["weatherstation"]],
        "devices": ["mast", "pump-*"],
        "max_rate": "20 kB/s",
        "max_per_day": "50 MB",
        "windows": ["22:00-06:00 Europe/Zurich"],
        "every": "1 minute",
        "batch_size": 2000,
        "backoff": ["1s", "5 minutes"],
    }


def test_an_upstreams_models(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(HEAD + "[models.Wind]\nspeed = 'float'" + CENTRAL + "models = ['Wind']")
    settings = load(tmp_path / "gateway.toml")
    assert settings.forwarding["central"] == {"models": [settings.models["Wind"]]}


def test_a_wrong_model_is_not_held_against_its_upstreams(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, HEAD.replace('"float"', '"flaot"') + CENTRAL + "models = ['weather']")
    assert "models.weather.temperature" in line


def test_an_upstream_gets_what_it_was_set_up_for_and_no_more(tmp_path: Path) -> None:
    """From the file to the rows in the upstream."""
    weather = define_model("weather", {"temperature": (float, True, Field())})
    wind = define_model("wind", {"speed": (float, True, Field())})
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        for device in ("mast", "pump-1", "pump-2", "cellar"):
            for hour in range(4):
                store.store_reading(weather, device, moment + timedelta(hours=hour), {"temperature": 20.0})
                store.store_reading(wind, device, moment + timedelta(hours=hour), {"speed": 3.0})
    (tmp_path / "gateway.toml").write_text(
        HEAD + "[models.wind]\nspeed = 'float'\n[upstreams.copy]\nengine = 'sqlite'\npath = 'copy.db'\n"
        "start = 2026-01-01T02:00:00Z\nmodels = ['wind']\ndevices = ['mast', 'pump-*']\n"
    )
    with load(tmp_path / "gateway.toml").build() as gateway:
        assert isinstance(gateway.store, SQLiteStorage)
        eventually(lambda: gateway.status()["upstreams"]["copy"]["pending"] == 0)
        books = gateway.store.ledger()
    assert (books.upstreams["copy"]["delivered"], books.upstreams["copy"]["skipped"]) == (6, 26)
    assert books.problems == []
    with SQLiteStorage(tmp_path / "copy.db", read_only=True) as copy:
        assert sorted(copy.models()) == ["wind"]
        assert {(row["device_id"], row["timestamp"].hour) for row in copy.query_readings(wind)} == {
            (device, hour) for device in ("mast", "pump-1", "pump-2") for hour in (2, 3)
        }


def test_a_gateway_is_made_of_it(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(HEAD + MAST + GARDEN + CENTRAL)
    gateway = load(file).build()
    try:
        status = gateway.status()
        assert status["gateway_id"] == "roof"
        assert list(status["drivers"]) == ["mast", "garden"]
        assert list(status["upstreams"]) == ["central"]
        assert isinstance(gateway.store, SQLiteStorage)
        assert gateway.store.path == tmp_path / "gateway.db"
    finally:
        gateway.stop()


def test_a_store_of_another_gateway_is_refused_in_one_line(tmp_path: Path) -> None:
    SQLiteStorage(tmp_path / "gateway.db", gateway_id="cellar").close()
    file = tmp_path / "gateway.toml"
    file.write_text(HEAD)
    with pytest.raises(ConfigError) as caught:
        load(file).build()
    assert str(caught.value).startswith(
        f"{file}: storage: {tmp_path}/gateway.db holds the readings of gateway 'cellar'"
    )


def test_a_third_partys_driver_and_storage_need_no_code_here(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        HEAD
        + "[drivers.roof]\ntype = 'tests.gateway.third_party.RainGauge'\nmodel = 'weather'\n"
        + "every = '10s'\npins = [4, 5]\ncalibration = 'gauge.csv'\n"
        + "[upstreams.list]\nengine = 'tests.gateway.third_party.ListStorage'\nlimits = { rows = 3 }\n"
    )
    settings = load(file)
    gauge = settings.drivers["roof"].make()
    assert (gauge.pins, gauge.every.total_seconds()) == ((4, 5), 10)
    assert gauge.calibration == tmp_path / "gauge.csv"
    assert settings.upstreams["list"].make().limits == {"rows": 3}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("pins = [4]", "drivers.roof.pins: found [4], expected a list of 2: a whole number, a whole number"),
        ("every = '1mo'\npins = [4, 5]", f'drivers.roof.every: found "1mo", expected {DURATION}'),
        ("pins = [4, 5]\nclock = 'x'", "drivers.roof.clock: unknown key; known here: calibration, every, model, pins"),
        ("pins = [4, 4]", "drivers.roof: two pins are needed, found 4 twice"),
    ],
)
def test_a_third_partys_driver_is_checked_all_the_same(tmp_path: Path, lines: str, expected: str) -> None:
    head = "[drivers.roof]\ntype = 'tests.gateway.third_party.RainGauge'\nmodel = 'weather'\n"
    assert refused(tmp_path, HEAD + head + lines) == [f"{tmp_path}/gateway.toml: {expected}"]


def test_the_storage_alone_can_be_read_from_a_file_that_is_wrong_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(HEAD + "[drivers.mast]\ntype = 'serail'\n")
    assert load_storage(file).options["path"] == tmp_path / "gateway.db"


@pytest.mark.parametrize(
    ("engine", "library", "needs"),
    [
        ("timescaledb", "psycopg", "psycopg 3: pip install 'edgedepot[timescale]'"),
        ("influxdb", "influxdb_client", "influxdb-client: pip install 'edgedepot[influxdb]'"),
    ],
)
def test_an_engine_whose_library_is_not_installed(tmp_path: Path, engine: str, library: str, needs: str) -> None:
    (tmp_path / "gateway.toml").write_text(f"{HEAD}[upstreams.central]\nengine = '{engine}'\n")
    code = f"import sys; sys.modules['{library}'] = None; from edgedepot.cli import main; main()"
    command = [sys.executable, "-c", code, "check", "gateway.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'gateway.toml: upstreams.central.engine: found "{engine}", which cannot be imported: ')
    assert line.endswith(f"Storage needs {needs}")
