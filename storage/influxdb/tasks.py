"""Making the bucket, and the task that downsamples into another one."""

from __future__ import annotations

import re
from datetime import timedelta

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.bucket import Bucket
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.domain.task_create_request import TaskCreateRequest
from influxdb_client.domain.task_update_request import TaskUpdateRequest

from edgedepot.storage.errors import ConfigError, Misconfigured
from edgedepot.storage.influxdb.downsampling import Downsampling, name_of, text_of
from edgedepot.storage.influxdb.link import Link
from edgedepot.storage.influxdb.settings import Settings
from edgedepot.storage.interval import seconds_of

_NO_BUCKET = re.compile('bucket ".*" not found')
"""What one server says where another lists none; a 404 for an organisation or a path is something else."""


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
        if exc.code == "404" and _NO_BUCKET.search(str(exc)):
            return None
        raise
    return next((bucket for bucket in answer.buckets if bucket.name == settings.bucket), None)


def _days(seconds: int) -> str:
    return f"{seconds / 86_400:g} days" if seconds else "ever"


def create_downsampling_task(
    link: Link, settings: Settings, gateway_id: str | None, target: str, asked: Downsampling
) -> str:
    """Make the task, or replace its text; returns its name."""
    if target == settings.bucket:
        raise ConfigError(f"bucket {target!r} holds the readings themselves: expected another one for the aggregates")
    name = name_of(gateway_id, target, asked)
    text = text_of(name, settings.bucket, target, settings.org, gateway_id, asked)

    def create(client: InfluxDBClient) -> None:
        tasks = client.tasks_api()
        found = [task for task in tasks.find_tasks(name=name, org=settings.org) if task.name == name]
        for task in found:
            tasks.update_task_request(task.id, TaskUpdateRequest(flux=text, status="active"))
        if not found:
            tasks.create_task(task_create_request=TaskCreateRequest(flux=text, org=settings.org, status="active"))

    link.ask(create)
    return name
