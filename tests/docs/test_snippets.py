"""Every TOML example of the README and of docs/ is one that a gateway takes, once what it leaves out is added."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgedepot.config import load
from edgedepot.storage.hints import shown

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.S))
    if "myapp." not in text  # somebody's own class
]
LEFT_OUT: dict[str, Any] = {
    "gateway": {"id": "roof"},
    "storage": {"path": "gateway.db"},
    "models": {"weatherstation": {"temperature": "float", "humidity": "float"}},
}
ENVIRONMENT = {"LAB_TOKEN": "token", "INFLUXDB_TOKEN": "token", "PASSWORD": "word"}


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_gateway_takes_it(text: str, tmp_path: Path) -> None:
    there = tomllib.loads(text)
    added = [_as_toml(name, table) for name, table in LEFT_OUT.items() if name not in there]
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "central-ca.pem"))
    (tmp_path / "gateway.toml").write_text("\n".join([text, *added]))
    load(tmp_path / "gateway.toml", ENVIRONMENT)


def _as_toml(name: str, table: dict[str, Any]) -> str:
    lines = [f"[{name}]"] if not any(isinstance(value, dict) for value in table.values()) else []
    for key, value in table.items():
        lines.append(_as_toml(f"{name}.{key}", value) if isinstance(value, dict) else f"{key} = {shown(value)}")
    return "\n".join(lines)
