"""The bucket, and the task that downsamples into another one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.bucket import Bucket
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.domain.task_create_request import TaskCreateRequest
from influxdb_client.domain.task_update_request import TaskUpdateRequest

from edgedepot.storage.errors import ConfigError, InvalidValue, Misconfigured
from edgedepot.storage.influxdb import flux
from edgedepot.storage.influxdb.link import Link
from edgedepot.storage.influxdb.settings import Settings
from edgedepot.storage.interval import Interval, seconds_of
from edgedepot.storage.query import FUNCTIONS, Aggregation, Function, Scope

_HOUR = Interval.parse("1 hour")


def create_bucket(link: Link, settings: Settings, retention: str | timedelta | None) -> None:
    """Make the bucket if it is not there. Raises `ConfigError` if it is there with another retention."""
    seconds = 0 if retention is None else round(seconds_of(retention, "retention"))

    bucket = _find_bucket(link, settings)
    if bucket is None:
        rules = [BucketRetentionRules(type="expire", every_seconds=seconds)] if seconds else []
        link.ask(
            lambda client: client.buckets_api().create_bucket(
                bucket_name=settings.bucket, retention_rules=rules, org=settings.org
            )
        )
        return
    found = sum(rule.every_seconds for rule in bucket.retention_rules or [])
    if found != seconds:
        raise ConfigError(
            f"{settings.shown} is there and keeps readings for {_days(found)}, not for {_days(seconds)}: ask for that,"
            " or change the bucket on the server"
        )


def _find_bucket(link: Link, settings: Settings) -> Bucket | None:
    try:
        answer = link.ask(lambda client: client.buckets_api().find_buckets(name=settings.bucket, org=settings.org))
    except Misconfigured as exc:
        if exc.code != "404":
            raise
        return None
    return next((bucket for bucket in answer.buckets if bucket.name == settings.bucket), None)


def _days(seconds: int) -> str:
    return f"{seconds / 86_400:g} days" if seconds else "ever"


def check_downsampling(
    scope: Scope,
    fields: Sequence[str] | None,
    interval: str | timedelta,
    function: Function,
    tz: str,
    every: str | timedelta | None,
    lookback: str | timedelta,
    delay: str | timedelta,
) -> flux.Downsampling:
    """Check the arguments of a `create_downsampling_task` call. Raises `InvalidValue`."""
    if function not in FUNCTIONS:
        raise InvalidValue(f"function is {function!r}, expected one of {', '.join(FUNCTIONS)}")
    numeric = function in ("avg", "sum", "min", "max")
    if fields is None:
        fields = [spec.name for spec in scope.model.__fields__ if spec.type in (float, int) or not numeric]
    elif isinstance(fields, str):
        raise InvalidValue(f"fields is {fields!r}, expected a list of names")
    asked = [Aggregation.of(scope, name, function, interval, tz, None, None) for name in fields]
    if not asked or any(flux.is_of_column(one) for one in asked):
        raise InvalidValue(f"fields is {list(fields)!r}, expected declared fields that {function} takes")
    width = asked[0].interval
    assert width is not None
    how_often = (width if 0 < width.micros < _HOUR.micros else _HOUR) if every is None else Interval.parse(every)
    return flux.Downsampling(
        scope, tuple(fields), function, width, asked[0].zone, how_often, Interval.parse(delay), Interval.parse(lookback)
    )


def create_downsampling_task(
    link: Link, settings: Settings, gateway_id: str | None, target: str, asked: flux.Downsampling
) -> str:
    """Make the task, or replace its text; returns its name."""
    if target == settings.bucket:
        raise ConfigError(f"bucket {target!r} holds the readings themselves: expected another one for the aggregates")
    place = "" if gateway_id is None else f" of {gateway_id}"
    name = (
        f"edgedepot: {asked.function} of {asked.scope.model.__measurement__}{place} by {flux.duration(asked.interval)}"
        f" into {target}"
    )
    text = flux.downsampling_task(name, settings.bucket, target, settings.org, gateway_id, asked)

    def create(client: InfluxDBClient) -> None:
        tasks = client.tasks_api()
        found = [task for task in tasks.find_tasks(name=name, org=settings.org) if task.name == name]
        for task in found:
            tasks.update_task_request(task.id, TaskUpdateRequest(flux=text, status="active"))
        if not found:
            tasks.create_task(task_create_request=TaskCreateRequest(flux=text, org=settings.org, status="active"))

    link.ask(create)
    return name
