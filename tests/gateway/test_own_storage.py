"""A gateway whose local store is a storage of somebody's own, from Python and from the file."""

from pathlib import Path

import pytest

from edgedepot import BaseStorage, ConfigError, Gateway
from edgedepot.config import load
from edgedepot.storage.engines import storage_from_settings
from tests.examples import load_example
from tests.gateway.scripted import ScriptedDriver, Weather, eventually
from tests.gateway.third_party import ListStorage

ENGINE = "tests.gateway.third_party.ListStorage"


def test_drivers_write_into_any_storage() -> None:
    storage: BaseStorage = load_example("custom_storage").DictStorage()
    driver = ScriptedDriver([lambda sink: driver.say(sink)])
    gateway = Gateway(storage)
    gateway.add("mast", driver)
    with gateway:
        eventually(lambda: driver.is_through)
        assert gateway.status()["drivers"]["mast"]["faults"] == 0
    assert [reading.temperature for reading in storage.readings(Weather)] == [20.0]


def test_a_file_may_name_any_storage_as_the_local_store(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'[gateway]\nid = "roof"\n[storage]\nengine = "{ENGINE}"\nlimits = {{ rows = 3 }}\n')
    gateway = load(file).build()
    assert isinstance(gateway.store, ListStorage)
    assert (gateway.store.gateway_id, gateway.store.limits) == ("roof", {"rows": 3})


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": ENGINE, "limits": {"rows": 3}},
        {"ENGINE": ENGINE, "LIMITS": {"rows": 3}},
        {"ENGINE": ENGINE, "LIST_LIMITS": {"rows": 3}},
    ],
)
def test_settings_may_name_any_storage_in_either_spelling(settings: dict[str, object]) -> None:
    storage = storage_from_settings(settings)
    assert isinstance(storage, ListStorage)
    assert storage.limits == {"rows": 3}


def test_nothing_is_forwarded_from_a_storage_that_is_no_buffer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="upstream 'central': cannot forward from a ListStorage, expected a local"):
        Gateway(ListStorage()).forward_to("central", ListStorage())
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "roof"\n[storage]\nengine = "{ENGINE}"\n[upstreams.central]\nengine = "{ENGINE}"\n'
    )
    with pytest.raises(ConfigError, match=rf'storage.engine: found "{ENGINE}", which nothing can be forwarded from'):
        load(file)
