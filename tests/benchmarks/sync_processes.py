"""The processes that `sync_drain` measures: `fill` makes a store with a backlog, `drain` forwards it."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.benchmarks.child import listen, say, settings_from_command_line
from tests.benchmarks.memory_limit import resident
from tests.benchmarks.timescale_writers import FIELDS, GATEWAY, model, tuples

if TYPE_CHECKING:
    from edgedepot import SQLiteStorage, SyncWorker

TOGETHER = 5_000
"""Readings of the backlog that are stored at a time."""
TICK = 0.1
"""Seconds between the fresh readings."""
FRESH = "fresh"
"""What the names of the devices begin with whose readings come in meanwhile."""
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


def counting_store(path: str) -> "tuple[SQLiteStorage, Callable[[], int]]":
    """The store, and how many readings of the backlog the upstream has acknowledged: the fresh ones are none."""
    from edgedepot import SQLiteStorage
    from edgedepot.storage.buffer import Pending, Window

    done = 0

    def is_old(row: Pending) -> bool:
        return not row.device_id.startswith(FRESH)

    class Counting(SQLiteStorage):
        def acknowledge(self, cursor: str, window: Window) -> None:
            nonlocal done
            super().acknowledge(cursor, window)
            rows = window.rows
            if rows and is_old(rows[0]):  # all of the backlog came before the first fresh one
                done += len(rows) if is_old(rows[-1]) else sum(map(is_old, rows))

    return Counting(path, gateway_id=GATEWAY), lambda: done


def drain(settings: Mapping[str, Any]) -> None:
    """Forward the backlog, or the first `measured` readings of it, `rate` fresh ones a second coming in. With `last`
    all of it, and the last `measured` ones by themselves, once the benchmark says go again.

    The link is down until the benchmark says go; the memory just before is that of an idle gateway.
    """
    from edgedepot import SyncWorker, TimescaleDBStorage

    inverter, rate, stop = model(), settings["rate"], threading.Event()
    store, done = counting_store(settings["store"])
    upstream = TimescaleDBStorage(settings["url"])

    def forwarding() -> SyncWorker:
        return SyncWorker(store, "central", upstream, backoff=("100 ms", "1s"))

    worker = forwarding()
    others = [SyncWorker(store, "dead", TimescaleDBStorage(DEAD))] if settings["dead"] else []

    def produce() -> None:
        began, made = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - began) * rate) - made
            now = datetime.now(UTC)
            values = dict.fromkeys(FIELDS, 1.0)
            # A device for each: the newest reading of all comes from the first one.
            store.store_readings(inverter, [(f"{FRESH} {number}", now, values) for number in range(due)])
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
        while done() < settings["measured"]:
            time.sleep(0.02)
            most = max(most, resident())
        seconds = time.perf_counter() - began
        delivered = done()
        stop.set()
        if rate:
            producer.join()
        store.flush()
        while settings["measured"] == settings["readings"] and store.count_pending("central"):
            time.sleep(0.05)
        last = None
        if settings["last"]:
            while done() < settings["readings"] - settings["measured"]:
                time.sleep(0.05)
            worker.stop(None)
            worker = forwarding()
            last = drain_last(worker, done, settings["readings"])
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
        last=last,
    )


def drain_last(worker: "SyncWorker", done: Callable[[], int], readings: int) -> float:
    """Readings a second, of what is left of the backlog. The benchmark has the table emptied before, so that it is as
    large as for the first ones."""
    before = done()
    say(done=before)
    listen("go")
    began = time.perf_counter()
    worker.start()
    while done() < readings:
        time.sleep(0.02)
    return (done() - before) / (time.perf_counter() - began)


def main() -> None:
    settings = settings_from_command_line()
    tasks: dict[str, Callable[[Mapping[str, Any]], None]] = {"fill": fill, "drain": drain}
    tasks[settings["task"]](settings)


if __name__ == "__main__":
    main()
