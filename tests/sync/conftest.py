"""A local store, a clock that stands still, and workers between the store and an upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage, SyncWorker
from tests.sync.scripted import (
    HandClock,
    ScriptedUpstream,
    TellingStore,
    open_store,
)

Start = Callable[..., SyncWorker]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", flush_interval="20 ms") as store:
        yield store


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def start(store: TellingStore, clock: HandClock) -> Iterator[Start]:
    """`start(upstream, ...)` makes and starts a worker that is stopped after the test."""
    workers: list[SyncWorker] = []

    def make(upstream: ScriptedUpstream | SQLiteStorage, name: str = "central", **settings: Any) -> SyncWorker:
        settings.setdefault("random", lambda: 0.5)
        worker = SyncWorker(store, name, upstream, clock=clock, **settings)
        workers.append(worker)
        worker.start()
        return worker

    yield make
    assert [worker.stop() for worker in workers] == [True] * len(workers)
