"""Write the dump of this version's schema: `python -m tests.storage.sqlite.released`. Before a release, and once."""

import sqlite3
import tempfile
from pathlib import Path

from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.storage import SQLiteStorage
from tests.models import Mixed, Weather
from tests.storage.sqlite.damaged import T0, deliver, rows


def dump() -> str:
    """A store with something of everything, as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        with SQLiteStorage(path, gateway_id="roof", piece_rows=10, clock=ManualClock(T0)) as store:
            store.add_cursor("central")
            store.store_readings(Weather, rows(0, 20)).wait()
            deliver(store, 5)
            store.fold()
            store.store_readings(Weather, rows(15, 30)).wait()
            store.store_readings(Mixed, [("m", T0, {"a": 1.5, "text": "x'y", "number": 7, "flag": True})]).wait()
            window = store.pending("central", 3)
            assert window is not None
            store.quarantine("central", window.rows[:1], "refused")
            store.acknowledge("central", window)
        file = sqlite3.connect(path)
        lines = [*file.iterdump()]
        file.close()
        head = [f"PRAGMA application_id = {schema.APPLICATION_ID};", f"PRAGMA user_version = {schema.VERSION};"]
        return "\n".join([*head, *lines]) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_name(f"{schema.VERSION}.sql")
    target.write_text(dump())
    print(target)
