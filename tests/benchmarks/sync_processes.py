"""The processes that `sync_drain` measures: `fill` makes a store with a backlog, `drain` forwards it."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tests.benchmarks.child import listen, say, settings_from_command_line
from tests.benchmarks.memory_limit import resident
from tests.benchmarks.timescale_writers import FIELDS, GATEWAY, model, tuples

TOGETHER = 5_000
"""Readings of the backlog that are stored at a time."""
TICK = 0.1
"""Seconds between the fresh readings."""
DEAD = "postgresql://edge@127.0.0.1:9/nowhere"
"""Nobody listens there."""


def fill(settings: Mapping[str, Any]) -> None:
    from edgedepot import SQLiteStorage

    inverter = model()
    with SQLiteStorage(settings["store"], gateway_id=GATEWAY, busy_timeout="10 minutes") as store:
        for name in settings["cursors"]:
            store.add_cursor(name)
        for first in range(0, settings["readings"], TOGETHER):
            rows = tuples(min(TOGETHER, settings["readings"] - first), first)
            store.store_readings(
                inverter,
                [
                    (device, moment, dict(zip(FIELDS, values, strict=True)))
                    for _, device, moment, _, _, _, *values in rows
                ],
            )
        store.flush()
        store.fold()
    say(readings=settings["readings"])


def drain(settings: Mapping[str, Any]) -> None:
    """Forward the backlog, or the first `measured` readings of it, `rate` fresh ones a second coming in.

    The link is down until the benchmark says go; the memory just before is that of an idle gateway.
    """
    from edgedepot import SQLiteStorage, SyncWorker, TimescaleDBStorage

    inverter, rate, stop = model(), settings["rate"], threading.Event()
    store = SQLiteStorage(settings["store"], gateway_id=GATEWAY)
    upstream = TimescaleDBStorage(settings["url"])
    worker = SyncWorker(store, "central", upstream, backoff=("100 ms", "1s"))
    others = [SyncWorker(store, "dead", TimescaleDBStorage(DEAD))] if settings["dead"] else []

    def produce() -> None:
        began, made = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - began) * rate) - made
            now = datetime.now(UTC)
            values = dict.fromkeys(FIELDS, 1.0)
            # A device for each: the newest reading of all comes from the first one.
            store.store_readings(inverter, [(f"fresh {number}", now, values) for number in range(due)])
            made += due
            stop.wait(TICK)

    with store, upstream, worker:
        for other in others:
            other.start()
        while worker.status().retry_at is None:
            time.sleep(TICK)
        producer = threading.Thread(target=produce)
        if rate:
            producer.start()
            time.sleep(2.0)  # its own memory counts as idle
        idle = most = resident()
        say(idle=idle)
        listen("go")
        began = time.perf_counter()
        while worker.status().delivered < settings["measured"]:
            time.sleep(0.05)
            most = max(most, resident())
        seconds = time.perf_counter() - began
        delivered = worker.status().delivered
        stop.set()
        if rate:
            producer.join()
        store.flush()
        while settings["measured"] == settings["readings"] and store.count_pending("central"):
            time.sleep(0.05)
        worker.stop(None)
        status, balanced = worker.status(), store.ledger().balanced
        for other in others:
            other.stop()
    say(
        seconds=seconds,
        delivered=delivered,
        all_delivered=status.delivered,
        requests=status.requests,
        idle=idle,
        most=most,
        balanced=balanced,
        error=status.last_error,
    )


def main() -> None:
    settings = settings_from_command_line()
    tasks: dict[str, Callable[[Mapping[str, Any]], None]] = {"fill": fill, "drain": drain}
    tasks[settings["task"]](settings)


if __name__ == "__main__":
    main()
