"""Making the bucket and downsampling tasks."""

import json
from datetime import timedelta
from typing import Any

import pytest

from edgedepot import ConfigError, InfluxDBStorage, InvalidValue
from edgedepot.storage.errors import Misconfigured
from tests.models import Weather
from tests.storage.influxdb.conftest import Connect
from tests.storage.influxdb.scripted import Answer, ScriptedInfluxDB


@pytest.mark.parametrize(
    ("retention", "rules"),
    [
        ("90 days", [{"type": "expire", "everySeconds": 90 * 86_400}]),
        (timedelta(hours=1), [{"type": "expire", "everySeconds": 3600}]),
        (None, []),
    ],
)
def test_a_bucket_is_made_once(server: ScriptedInfluxDB, connect: Connect, retention: Any, rules: list[Any]) -> None:
    storage = connect(bucket="fresh")
    storage.create_bucket(retention)
    storage.create_bucket(retention)
    (made,) = [bucket for bucket in server.buckets if bucket["name"] == "fresh"]
    assert (made["orgID"], made["retentionRules"]) == ("o1", rules)
    assert storage.store_readings(Weather, [("a", None, {"temperature": 1})]).accepted == 1


def test_a_bucket_with_another_retention_is_left_as_it_is(server: ScriptedInfluxDB, connect: Connect) -> None:
    storage = connect(bucket="fresh")
    storage.create_bucket("30d")
    with pytest.raises(ConfigError, match=r"'fresh' is there and keeps readings for 30 days, not for 90 days"):
        storage.create_bucket("90 days")
    with pytest.raises(ConfigError, match="not for ever"):
        storage.create_bucket()
    with pytest.raises(InvalidValue, match="retention"):
        storage.create_bucket("1 month")


def test_a_token_that_may_not_make_buckets(server: ScriptedInfluxDB, connect: Connect) -> None:
    server.script.append(Answer(403, "forbidden"))
    with pytest.raises(Misconfigured, match="lacks a right"):
        connect(bucket="fresh").create_bucket()


def test_an_organisation_that_is_not_there(server: ScriptedInfluxDB, connect: Connect) -> None:
    with pytest.raises(Misconfigured, match=r'check url, org and bucket.*: organization name "nobody" not found'):
        connect(org="nobody", bucket="fresh").create_bucket()
    # To a token that may not see it, it is not there either. Servers say so of a bucket, or list none.
    no_bucket = Answer(404, 'bucket "fresh" not found'), Answer(200, content=b'{"buckets": []}')
    no_organisation = Answer(404, 'organization name "farm" not found'), Answer(200, content=b'{"orgs": []}')
    for answers in zip(no_bucket, no_organisation, strict=True):
        server.script.extend(answers)
        with pytest.raises(Misconfigured, match=r"check org, and what the token may see: .*'farm'") as caught:
            connect(bucket="fresh").create_bucket()
        assert caught.value.__cause__ is not None
    assert len(server.buckets) == 1


def test_a_task_is_made_once_and_replaced(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    name = storage.create_downsampling_task(Weather, "iot_hours", "1 hour")
    assert name == "edgedepot: avg of weather of roof by 1h into iot_hours"
    (task,) = server.tasks
    assert task["name"] == name
    assert task["status"] == "active"
    assert "window(every: 1h, createEmpty: false)" in task["flux"]
    assert 'to(bucket: "iot_hours", org: "farm")' in task["flux"]
    # what has an average: numbers
    assert [spec.name for spec in Weather.__fields__ if f'r._field == "{spec.name}"' in task["flux"]] == [
        "temperature", "humidity", "count"
    ]  # fmt: skip

    storage.create_downsampling_task(Weather, "iot_hours", "1 hour", lookback="30d")
    (again,) = server.tasks
    assert again["id"] == task["id"]
    assert "date.sub(d: 30d" in again["flux"]
    assert json.loads(server.requests[-1].content) == {"flux": again["flux"], "status": "active"}

    storage.create_downsampling_task(Weather, "iot_hours_last", "1 hour", "last")
    assert len(server.tasks) == 2
    assert 'r._field == "note"' in server.tasks[1]["flux"]


def test_tasks_that_write_something_else_stand_beside_one_another(
    server: ScriptedInfluxDB, storage: InfluxDBStorage
) -> None:
    names = [
        storage.create_downsampling_task(Weather, "other", interval, **more)
        for interval, more in (
            ("1d", {}),
            ("1d", {"fields": ["temperature", "count"]}),
            ("1d", {"fields": ["count", "temperature", "count"]}),
            ("1d", {"fields": ["count"]}),
            ("1d", {"tz": "Europe/Zurich"}),
            ("1h", {"tz": "Europe/Zurich"}),
            ("1h", {}),
        )
    ]
    assert [name.removeprefix("edgedepot: avg of weather") for name in names] == [
        " of roof by 1d into other",
        " (count, temperature) of roof by 1d into other",
        " (count, temperature) of roof by 1d into other",
        " (count) of roof by 1d into other",
        " of roof by 1d in Europe/Zurich into other",
        " of roof by 1h into other",
        " of roof by 1h into other",
    ]
    assert [task["name"] for task in server.tasks] == list(dict.fromkeys(names))


@pytest.mark.parametrize(("interval", "every"), [("5m", "5m"), ("1h", "1h"), ("6h", "1h"), ("1d", "1h"), ("1mo", "1h")])
def test_how_often_a_task_runs(server: ScriptedInfluxDB, connect: Connect, interval: str, every: str) -> None:
    connect(gateway_id=None).create_downsampling_task(Weather, "other", interval)
    assert f"every: {every}, offset: 1m}}" in server.tasks[0]["flux"]
    assert "exists r.gateway_id" in server.tasks[0]["flux"]


@pytest.mark.parametrize(
    "wrong",
    [{"function": "median"}, {"fields": ["nonsense"]}, {"fields": "temperature"}, {"fields": ["note"]}, {"fields": []},
     {"fields": ["timestamp"], "function": "count"}, {"interval": "5 parsecs"},
     {"interval": "1d", "tz": "Mars"}, {"lookback": "soon"}],
)  # fmt: skip
def test_what_makes_no_task(server: ScriptedInfluxDB, storage: InfluxDBStorage, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        storage.create_downsampling_task(Weather, "other", **{"interval": "1h"} | wrong)
    with pytest.raises(ConfigError, match="expected another one"):
        storage.create_downsampling_task(Weather, "iot", "1h")
    assert server.requests == []
