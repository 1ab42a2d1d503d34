"""The storage contract against a real InfluxDB 2: `make test-influxdb`, with INFLUXDB_URL, INFLUXDB_TOKEN, INFLUXDB_ORG
and INFLUXDB_BUCKET set. The bucket has to be there and to keep readings for ever; what the suite writes, it deletes.

Without a server there is nothing to run: then this module has no tests. The rest of the suite tells how far that goes
(tests/storage/influxdb/).
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from edgedepot import InfluxDBStorage
from edgedepot.storage.conformance import StorageContract
from edgedepot.storage.conformance.base import Level, Select, Station, Switch

NEEDED = ("INFLUXDB_URL", "INFLUXDB_TOKEN", "INFLUXDB_ORG", "INFLUXDB_BUCKET")
GATEWAYS = ("conformance", "~other")

if all(name in os.environ for name in NEEDED):

    class TestInfluxDB(StorageContract):
        # It keeps what was written last and knows no versions, and times in 64 bits of nanoseconds.
        lacks = frozenset({"save_device", "versions", "distant_times"})

        @pytest.fixture
        def storage(self) -> Iterator[InfluxDBStorage]:
            _delete_all()
            with InfluxDBStorage(gateway_id=GATEWAYS[0]) as storage:
                yield storage
            _delete_all()

        @pytest.fixture
        def settings(self) -> dict[str, Any]:
            return {"engine": "influxdb", "gateway_id": GATEWAYS[0]}

    def _delete_all() -> None:
        for gateway in GATEWAYS:
            with InfluxDBStorage(gateway_id=gateway) as storage:
                for model in (Level, Select, Station, Switch):
                    storage.delete_readings(model)

elif os.environ.get("EDGEDEPOT_TEST_INFLUXDB"):
    raise RuntimeError(f"make test-influxdb needs a real InfluxDB 2: set {', '.join(NEEDED)}")
