"""What the parts of the suite share: the fixtures, the declared lacks, and words to put readings in and to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, get_args

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.reading import Device, Field, Reading

Ability = Literal[
    "delete_readings", "devices", "save_device", "quality", "version_quality", "versions", "gateways", "other_process",
    "distant_times",
]  # fmt: skip
"""What a backend may lack, and what the suite then checks instead:

=================  =====================================================================================
`delete_readings`  it raises `NotSupported`
`devices`          it raises `NotSupported`
`save_device`      it raises `NotSupported`
`quality`          ``fields=["quality"]`` answers None for every reading
`version_quality`  the quality that a `Version` brings is dropped
`versions`         of two versions of a reading the one that is stored later counts, as with any reading
`gateways`         it holds one gateway's readings: no row carries ``"gateway_id"``
`other_process`    nothing: readings stay in this process, and no `settings` fixture claims otherwise
`distant_times`    times before 1677 and after 2262 are a ValueError
=================  =====================================================================================
"""

MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""The noon that most readings of the suite are near."""
MICROSECOND = timedelta(microseconds=1)


class Station(Reading, measurement="conformance_station"):
    """A field of each type; one is required and has a range."""

    temperature: float = Field(unit="°C", range=(-40, 80))
    humidity: float | None = None
    raining: bool | None = None
    note: str | None = None
    pulses: int | None = None


class Level(Reading, measurement="conformance_level"):
    """One number."""

    height: float


class Switch(Reading, measurement="conformance_switch"):
    """Only fields that may be absent."""

    closed: bool | None = None
    label: str | None = None


class Select(Reading, measurement="select"):
    """Names that are words of query languages."""

    order: float | None = None
    group: int | None = None
    user: str | None = None
    From: bool | None = None
    test: str | None = None
    table: int | None = None


class Contract:
    """What a user gives: the `storage` fixture, and where it applies `lacks` and the `settings` fixture."""

    lacks: ClassVar[Set[Ability]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        unknown = sorted(set(cls.lacks) - set(get_args(Ability)))
        if unknown:
            raise ValueError(f"{cls.__name__}.lacks: {unknown} is none of {', '.join(get_args(Ability))}")

    @pytest.fixture
    def storage(self) -> BaseStorage:
        """A storage without readings. Override it; yield the storage, and close it afterwards."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `storage`")

    @pytest.fixture
    def settings(self) -> Mapping[str, Any] | None:
        """How another process opens what `storage` holds, as `storage_from_settings` takes it; override it unless the
        backend lacks ``other_process``. With ``gateways`` the suite adds a gateway_id of its own."""
        return None

    def can(self, ability: Ability, storage: BaseStorage) -> bool:
        """Whether the storage has an ability. What it declares to lack it must refuse when it is called."""
        if ability not in self.lacks:
            return True
        calls: dict[str, Callable[[], object]] = {
            "delete_readings": lambda: storage.delete_readings(Level),
            "devices": storage.devices,
            "save_device": lambda: storage.save_device(Device("a")),
        }
        if ability in calls:
            with pytest.raises(NotSupported):
                calls[ability]()
        return False


def value_error() -> AbstractContextManager[object]:
    """Expect a ValueError; how it is worded is the storage's own matter."""
    return pytest.raises(ValueError)  # noqa: PT011


def put(storage: BaseStorage, *readings: tuple[object, datetime, Any]) -> None:
    """Store `Level` readings: ``(device, timestamp, height)``."""
    storage.store_readings(Level, [(device, moment, {"height": height}) for device, moment, height in readings])


def put_series(storage: BaseStorage, start: datetime, step: timedelta, count: int, device: str = "a") -> None:
    """Store `Level` readings at even distances (elapsed time, whatever clocks do), with heights 0, 1, 2 and so on."""
    first = start.astimezone(UTC)
    put(storage, *((device, first + number * step, number) for number in range(count)))


def put_values(storage: BaseStorage, field: str, *values: Any, device: str = "a") -> None:
    """Store `Station` readings a minute apart, with these values of one field, from `MONDAY` on."""
    storage.store_readings(
        Station,
        [
            (device, MONDAY + timedelta(minutes=number), {"temperature": 20} | {field: value})
            for number, value in enumerate(values)
        ],
    )


def values_of(storage: BaseStorage, field: str, model: type[Reading] = Station, **question: Any) -> list[Any]:
    """The values of one field, oldest reading first."""
    return [row[field] for row in storage.query_readings(model, fields=[field], **{"order": "timestamp"} | question)]


def result_of(storage: BaseStorage, field: str, function: Any, model: type[Reading] = Station, **more: Any) -> Any:
    """The result of an aggregate without an interval."""
    found = storage.aggregate(model, field, function, **more)
    assert isinstance(found, dict)
    assert list(found) == ["result"]
    return found["result"]


def buckets_of(storage: BaseStorage, interval: Any, function: Any = "count", **more: Any) -> list[tuple[str, Any]]:
    """The buckets of `Level.height` as ``(start in the call's zone, result)``, the start as text with its offset."""
    return [
        (row["bucket"].isoformat(" "), row["result"])
        for row in storage.downsample(Level, "height", interval, function, **more)
    ]
