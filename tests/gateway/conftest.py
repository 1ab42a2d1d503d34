"""Gateways as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.program import Run, Start


@pytest.fixture
def start() -> Iterator[Start]:
    runs: list[Run] = []

    def run(file: Path, *options: str) -> Run:
        runs.append(Run(file, *options))
        return runs[-1]

    yield run
    for made in runs:
        made.close()
