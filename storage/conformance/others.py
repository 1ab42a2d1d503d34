"""Others who read and write: threads, processes, gateways; and the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import MONDAY, Contract, Level, put, put_series, values_of
from edgedepot.storage.engines import storage_from_settings

MINUTE = timedelta(minutes=1)
_READER = """
import json, sys
from edgedepot.storage.conformance.base import Level
from edgedepot.storage.engines import storage_from_settings
with storage_from_settings(json.load(sys.stdin)) as storage:
    rows = storage.query_readings(Level, order="timestamp")
    print(json.dumps([[row["device_id"], row["timestamp"].isoformat(), row["height"]] for row in rows]))
    print(json.dumps(storage.aggregate(Level, "height", "sum")))
"""


class Others(Contract):
    def test_readings_of_several_threads_are_all_there(self, storage: BaseStorage) -> None:
        def write(device: str) -> int:
            for number in range(25):
                storage.store_reading(Level, device, MONDAY + number * MINUTE, {"height": number})
                storage.query_readings(Level, device, limit=1)
            return len(storage.query_readings(Level, device))

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(write, "abcd")) == [25, 25, 25, 25]
        assert storage.aggregate(Level, "height", "sum") == {"result": 4 * 300.0}

    def test_another_process_reads_what_was_stored(
        self, storage: BaseStorage, settings: Mapping[str, Any] | None
    ) -> None:
        if "other_process" in self.lacks:
            assert settings is None
            return
        assert settings is not None, f"{type(self).__name__} needs a fixture `settings`, or lacks 'other_process'"
        put_series(storage, MONDAY, MINUTE, 3)
        put(storage, ("b", MONDAY + 5 * MINUTE, 0.1))
        storage.flush()
        found = subprocess.run(
            [sys.executable, "-c", _READER],
            input=json.dumps(dict(settings)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert found.returncode == 0, found.stderr
        rows, total = map(json.loads, found.stdout.splitlines())
        moments = [(MONDAY + number * MINUTE).isoformat() for number in (0, 1, 2, 5)]
        assert rows == [["a", moments[0], 0.0], ["a", moments[1], 1.0], ["a", moments[2], 2.0], ["b", moments[3], 0.1]]
        assert total == {"result": 3.1}

    def test_a_gateway_reads_its_own_and_who_is_none_reads_all(
        self, storage: BaseStorage, settings: Mapping[str, Any] | None
    ) -> None:
        put(storage, ("a", MONDAY, 1))
        if "gateways" in self.lacks:
            assert list(storage.query_readings(Level)[0]) == ["device_id", "timestamp", "height"]
            return
        assert settings is not None, f"{type(self).__name__} needs a fixture `settings`, or lacks 'gateways'"
        own = storage.gateway_id
        assert own is not None, "the storage of the fixture needs a gateway_id, or lacks 'gateways'"
        shared = {key: value for key, value in settings.items() if key.lower() != "gateway_id"}
        with (
            storage_from_settings({**shared, "gateway_id": "~other"}) as other,
            storage_from_settings(shared) as every,
        ):
            put(other, ("a", MONDAY, 10), ("a", MONDAY + MINUTE, 20))
            assert storage.query_readings(Level) == [{"device_id": "a", "timestamp": MONDAY, "height": 1.0}]
            assert values_of(other, "height", Level) == [10, 20]
            rows = every.query_readings(Level)
            assert [(row["gateway_id"], row["height"]) for row in rows] == [("~other", 20), (own, 1), ("~other", 10)]
            assert list(every.iter_readings(Level, limit=9)) == rows
            after = (MONDAY, own, "a")
            assert [row["height"] for row in every.iter_readings(Level, after=after)] == [10]
            assert [reading.gateway_id for reading in every.readings(Level)] == ["~other", own, "~other"]
            assert every.aggregate(Level, "height", "sum") == {"result": 31.0}
            assert every.aggregate(Level, "height", "first") == {"result": 1.0}
            assert every.aggregate(Level, "height", "count", group_by="device") == [{"device_id": "a", "result": 3}]
            if self.can("delete_readings", storage):
                storage.delete_readings(Level)
            left = values_of(every, "height", Level)
            assert left == ([10, 20] if "delete_readings" not in self.lacks else [1, 10, 20])

    def test_a_storage_says_how_it_is(self, storage: BaseStorage) -> None:
        health = storage.health_check()
        assert {"status", "message", "version"} <= set(health)
        assert health["status"] == "pass"
        assert isinstance(health["message"], str)

    def test_closing_twice_is_no_trouble(self, storage: BaseStorage) -> None:
        put(storage, ("a", MONDAY, 1))
        storage.close()
        storage.close()

    def test_a_storage_is_a_context_manager_of_itself(self, storage: BaseStorage) -> None:
        with storage as entered:
            assert entered is storage
            put(storage, ("a", MONDAY, 1))
