"""The process that `test_killed` kills: does one thing after the other to a store, each of them derived from its number
alone, so that whoever kills it knows what it did."""

import random
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from edgedepot import Reading, SQLiteStorage
from tests.models import Mixed, Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CURSORS = ("first", "second", "third")


class Deed(NamedTuple):
    """Readings to store, or with `rows` None a range to delete."""

    model: type[Reading]
    rows: list[tuple[str, datetime, dict[str, Any]]] | None
    device: str | None = None
    start: datetime | None = None
    end: datetime | None = None


def deed(number: int) -> Deed:
    """Mostly new readings in order of time; some late, some that merge with earlier ones; sometimes a deletion."""
    rng = random.Random(number)
    if rng.random() < 0.08:
        start = T0 + timedelta(seconds=20 * number - rng.randint(0, 4000))
        device = rng.choice([None, "d1", "d2"])
        return Deed(rng.choice([Weather, Mixed]), None, device, start, start + timedelta(seconds=rng.randint(1, 300)))
    rows: list[tuple[str, datetime, dict[str, Any]]] = []
    for _ in range(rng.randint(1, 40)):
        second = 20 * number + rng.randint(0, 19)
        if rng.random() < 0.2:
            second -= rng.randint(0, 10_000)
        if rng.random() < 0.01:
            second -= 86_400 * rng.randint(30, 900)
        rows.append((f"d{rng.randint(0, 4)}", T0 + timedelta(seconds=second), {}))
    if number % 3:
        values: list[dict[str, Any]] = [{"temperature": float(rng.randint(0, 3)), "count": number} for _ in rows]
        return Deed(Weather, [(*row[:2], data) for row, data in zip(rows, values, strict=True)])
    values = [{rng.choice("ab"): float(rng.randint(0, 3)), "number": rng.randint(0, 9)} for _ in rows]
    return Deed(Mixed, [(*row[:2], data) for row, data in zip(rows, values, strict=True)])


def do(store: SQLiteStorage, number: int) -> None:
    """Returns when it is committed."""
    it = deed(number)
    if it.rows is None:
        store.delete_readings(it.model, it.device, it.start, it.end)
    else:
        store.store_readings(it.model, it.rows).wait("committed")


def send(store: SQLiteStorage, cursor: str, limit: int, refuse: bool) -> None:
    """One window; says what it sends, and what is acknowledged for good."""
    window = store.pending(cursor, limit)
    if window is None:
        return
    for row in window.rows:
        print("sent", cursor, row.seq, row.model.__measurement__, row.device_id, row.timestamp)
    sys.stdout.flush()
    if refuse:
        store.quarantine(cursor, window.rows[:1], "refused")
    store.acknowledge(cursor, window)
    store.flush()
    for row in window.rows:
        print("acknowledged", cursor, row.seq)
    sys.stdout.flush()


def main() -> None:
    path, number, durability, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    rng = random.Random(seed)
    store = SQLiteStorage(
        path,
        gateway_id="roof",
        durability="power" if durability == "power" else "process",
        flush_interval="2 ms",
        sync_interval="5 ms",
        fold_interval="5 ms",
        piece_rows=300,
    )
    while True:
        print("begin", number, flush=True)
        do(store, number)
        print("done", number, flush=True)
        number += 1
        if rng.random() < 0.02:
            store.add_cursor(rng.choice(CURSORS))
        for cursor in store.cursors():
            if rng.random() < 0.4:
                send(store, cursor, rng.choice([10, 100, 1000]), rng.random() < 0.2)


if __name__ == "__main__":
    main()
