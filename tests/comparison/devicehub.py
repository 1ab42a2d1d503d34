"""django-devicehub's side of the comparison: prints a JSON object of answers by title.

Runs in an environment of its own, which has django-devicehub and nothing of ours:

    python -m tests.comparison.devicehub
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.conf import settings
from django.db import connection
from django.utils import timezone

from tests.comparison.cases import CASES, Case


class _DeviceHub:
    """Its storage on SQLite, with one device that has a key."""

    def __init__(self, storage: Any, device_model: Any, reading_model: Any) -> None:
        reading_model.objects.all().delete()
        self._storage = storage
        self._model = reading_model
        self._device, _ = device_model.objects.get_or_create(device_id="a", api_key="the device's key")

    def store(self, moment: Any, data: dict[str, Any]) -> object:
        return self._storage.store_reading(self._model, self._device, moment, data)

    def query(self, **question: Any) -> list[dict[str, Any]]:
        found = self._storage.query_readings(self._model, **question)
        return [row if isinstance(row, dict) else vars(row) for row in found]

    def aggregate(self, field: str, function: str, **more: Any) -> Any:
        return self._storage.aggregate(self._model, field, function, **more)

    def downsample(self, field: str, interval: Any, function: str, **more: Any) -> list[dict[str, Any]]:
        return list(self._storage.downsample(self._model, field, interval, function, **more))


def main() -> None:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django_devicehub"],
        USE_TZ=True,
        TIME_ZONE="UTC",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django_devicehub import DeviceType, Reading, reading_types
    from django_devicehub.storage.django_orm import DjangoORMStorage

    class Probe(DeviceType):  # type: ignore[misc]  # it is not installed where types are checked
        temperature = Reading(type=reading_types.FLOAT)
        humidity = Reading(type=reading_types.FLOAT)

    models = Probe.create_models("django_devicehub.models")
    with connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)

    def answer(case: Case) -> str:
        # Its zone is a setting of the whole process, which Django lets one override for a while.
        with timezone.override(case.zone or "UTC"):
            return case.answer(_DeviceHub(DjangoORMStorage(), *models[:2]))

    json.dump({case.title: answer(case) for case in CASES}, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
