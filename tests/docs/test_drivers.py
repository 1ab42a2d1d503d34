"""docs/drivers.md names every setting of the drivers and formats, with its default where it gives one."""

import inspect
import json
import re
from pathlib import Path

import pytest

from edgedepot import MqttDriver, SerialLineDriver
from edgedepot.drivers.formats import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "drivers.md").read_text()


def parameters(of: type) -> dict[str, inspect.Parameter]:
    found = inspect.signature(of).parameters.values()
    return {one.name: one for one in found if one.kind is not one.VAR_KEYWORD}


@pytest.mark.parametrize(("heading", "driver"), [("MQTT", MqttDriver), ("Serial lines", SerialLineDriver)])
def test_the_settings_of_a_driver(heading: str, driver: type) -> None:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    known = parameters(driver)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`(?!\))", cell)) == sorted(known)
    for name, shown in (pair for cell in cells for pair in re.findall(r"`(\w+)` \(`?([^`)]+)`?\)", cell)):
        assert json.loads(shown) == known[name].default


def test_the_formats_and_their_options() -> None:
    rows = {
        json.loads(cells[1].strip(" `")): cells[3]
        for cells in (line.split("|") for line in PAGE.splitlines() if line.startswith('| `"'))
    }
    assert sorted(rows) == sorted(FORMATS.names())
    for name, options in rows.items():
        for option in parameters(FORMATS.find(name)):
            assert f"`{option}`" in options
