"""A process with some of the gateways of `test_many_gateways`: each has its own store, worker and upstream."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from edgedepot import SQLiteStorage, SyncWorker, TimescaleDBStorage
from tests.sync.scripted import Weather, moment


def main() -> None:
    settings = json.loads(sys.argv[1])
    with ExitStack() as stack:
        stores, workers = [], []
        for number in settings["gateways"]:
            name = f"gateway-{number}"
            store = SQLiteStorage(Path(settings["folder"]) / f"{name}.db", gateway_id=name)
            upstream = TimescaleDBStorage(settings["url"], connect_timeout="10s")
            stack.enter_context(store)
            stack.enter_context(upstream)
            store.add_cursor("central")
            rows = [("mast", moment(second), {"temperature": float(second)}) for second in range(settings["rows"])]
            store.store_readings(Weather, rows).wait()
            stores.append(store)
            workers.append(SyncWorker(store, "central", upstream, backoff=("200 ms", "1s")))
        for worker in workers:
            stack.enter_context(worker)
        deadline = time.monotonic() + settings["seconds"]
        while any(worker.status().retry_at is None for worker in workers):  # each has found the server away
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        print("away", flush=True)
        ended: dict[str, float] = {}
        before = [worker.status().requests for worker in workers]
        sys.stdin.readline()
        began = time.monotonic()
        while len(ended) < len(workers) and time.monotonic() < deadline:
            for store, worker in zip(stores, workers, strict=True):
                if worker.status().delivered >= settings["rows"]:
                    ended.setdefault(str(store.gateway_id), time.monotonic() - began)
            threading.Event().wait(0.05)
        balanced = all(store.ledger().balanced and not store.count_pending("central") for store in stores)
        tries = [worker.status().requests - earlier for worker, earlier in zip(workers, before, strict=True)]
    print(json.dumps({"ended": ended, "balanced": balanced, "tries": tries}), flush=True)


if __name__ == "__main__":
    main()
