"""The storage contract as tests: point them at a storage of your own.

    # test_my_storage.py
    import pytest
    from edgedepot.storage.conformance import StorageContract

    class TestMyStorage(StorageContract):
        lacks = {
            "delete_readings", "devices", "save_device", "versions", "version_quality", "gateways", "other_process",
        }

        @pytest.fixture
        def storage(self, tmp_path):
            with MyStorage(tmp_path / "readings") as storage:
                yield storage

The fixture gives a storage without readings, anew for each test. What the backend cannot do it declares in `lacks`;
then the tests check that it says so (mostly `NotSupported`), and leave nothing out in silence. See `Ability`.

Needs pytest. A failing test shows its comparisons as a test of your own would.
"""

import pytest

_PARTS = "aggregates base buckets devices identity names others paging queries values"
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS.split()))

from edgedepot.storage.conformance.aggregates import Aggregates  # noqa: E402  # the rewriting comes first
from edgedepot.storage.conformance.base import Ability, Contract  # noqa: E402
from edgedepot.storage.conformance.buckets import Buckets  # noqa: E402
from edgedepot.storage.conformance.devices import Devices  # noqa: E402
from edgedepot.storage.conformance.identity import Identity  # noqa: E402
from edgedepot.storage.conformance.names import Names  # noqa: E402
from edgedepot.storage.conformance.others import Others  # noqa: E402
from edgedepot.storage.conformance.paging import Paging  # noqa: E402
from edgedepot.storage.conformance.queries import Queries  # noqa: E402
from edgedepot.storage.conformance.values import Values  # noqa: E402

__all__ = ["Ability", "StorageContract"]


class StorageContract(Values, Identity, Queries, Paging, Names, Aggregates, Buckets, Devices, Others, Contract):
    """All of the contract. Subclass it, name the subclass ``Test...``, and give it a `storage` fixture."""
