"""The page docs/comparison.md, from the answers of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.comparison.cases import CASES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
PEER = "django-devicehub==0.2.1"

_HEAD = """# The same calls, beside django-devicehub

django-devicehub declares devices as classes and stores their readings through a storage with the same calls as ours:
`store_reading`, `query_readings`, `aggregate`, `downsample`. It is a package for Django sites; edgedepot is one for
gateways. Where both have the same call, this is what each answers, on SQLite, with one model of two floats and one
device that has a key. Readings are of 2026-01-05 where nothing else is said; a bucket reads `start: result`, and
`count` is the function unless another stands there.

Measured, not written: `make comparison` installs version 0.2.1 in an environment of its own, asks both, and writes this
page. A test asks edgedepot again and compares.

| call | edgedepot | django-devicehub 0.2.1 |
|---|---|---|
"""


def page(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """The whole page."""
    return _HEAD + "".join(
        f"| {case.title} | {_cell(ours[case.title])} | {_cell(theirs[case.title])} |\n" for case in CASES
    )


def _cell(answer: str) -> str:
    return "`" + answer.replace("|", "\\|") + "`"
