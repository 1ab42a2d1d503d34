"""The other libraries that `store_others` measures, each used as its documentation shows, at its defaults.

Every function imports its library, and raises `ImportError` where that is not installed.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.store_rows import FIELDS, Row, batches

BATCH = 1_000


class Writers(NamedTuple):
    """How a library writes; None where it has no such way."""

    one_by_one: Callable[[Sequence[Row]], None] | None
    together: Callable[[Sequence[Row]], None] | None
    close: Callable[[], object]


def django(folder: Path) -> Writers:
    """`create`, and `bulk_create`, of the ORM."""
    import django as library
    from django.conf import settings
    from django.db import connection, models

    folder.mkdir()
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "django.db")}
    settings.configure(DATABASES={"default": database}, USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
    library.setup()
    floats = {name: models.FloatField() for name in FIELDS}
    meta = type("Meta", (), {"app_label": "benchmark", "unique_together": [("device_id", "timestamp")]})
    model: Any = type(
        "Reading",
        (models.Model,),
        {
            "__module__": __name__,
            "Meta": meta,
            "device_id": models.CharField(max_length=100),
            "timestamp": models.DateTimeField(),
            **floats,
        },
    )
    with connection.schema_editor() as editor:
        editor.create_model(model)

    def one_by_one(rows: Sequence[Row]) -> None:
        for device, moment, data in rows:
            model.objects.create(device_id=device, timestamp=moment, **data)

    def together(rows: Sequence[Row]) -> None:
        for batch in batches(rows, BATCH):
            model.objects.bulk_create(
                model(device_id=device, timestamp=moment, **data) for device, moment, data in batch
            )

    return Writers(one_by_one, together, connection.close)


def sqlalchemy(folder: Path) -> Writers:
    """A session of the ORM that commits each reading, or 1,000."""
    from sqlalchemy import UniqueConstraint, create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):  # type: ignore[misc]
        pass

    class Reading(Base):
        __tablename__ = "readings"
        __table_args__ = (UniqueConstraint("device_id", "timestamp"),)
        id: Mapped[int] = mapped_column(primary_key=True)
        device_id: Mapped[str]
        timestamp: Mapped[datetime]
        temperature: Mapped[float]
        humidity: Mapped[float]
        pressure: Mapped[float]
        wind: Mapped[float]

    folder.mkdir()
    engine = create_engine(f"sqlite:///{folder / 'sqlalchemy.db'}")
    Base.metadata.create_all(engine)

    def write(rows: Sequence[Row], size: int) -> None:
        with Session(engine) as session:
            for batch in batches(rows, size):
                session.add_all(Reading(device_id=device, timestamp=moment, **data) for device, moment, data in batch)
                session.commit()

    return Writers(lambda rows: write(rows, 1), lambda rows: write(rows, BATCH), engine.dispose)


def peewee(folder: Path) -> Writers:
    """`create`, and `insert_many` of as many as SQLite takes in a statement."""
    import peewee as library

    folder.mkdir()
    database = library.SqliteDatabase(str(folder / "peewee.db"))
    columns: dict[str, Any] = {name: library.FloatField() for name in FIELDS}
    meta = type("Meta", (), {"database": database, "indexes": ((("device_id", "timestamp"), True),)})
    columns |= {"device_id": library.TextField(), "timestamp": library.DateTimeField(), "Meta": meta}
    model: Any = type("Reading", (library.Model,), columns)
    database.connect()
    database.create_tables([model])

    def one_by_one(rows: Sequence[Row]) -> None:
        for device, moment, data in rows:
            model.create(device_id=device, timestamp=moment, **data)

    def together(rows: Sequence[Row]) -> None:
        for batch in batches(rows, BATCH):
            with database.atomic():
                dicts = [{"device_id": device, "timestamp": moment, **data} for device, moment, data in batch]
                for some in library.chunked(dicts, 100):
                    model.insert_many(some).execute()

    return Writers(one_by_one, together, database.close)


def persist_queue(folder: Path) -> Writers:
    """`SQLiteQueue.put`, which commits each item; it has no call for many."""
    import persistqueue

    queue = persistqueue.SQLiteQueue(str(folder), auto_commit=True)

    def one_by_one(rows: Sequence[Row]) -> None:
        for row in rows:
            queue.put(row)

    return Writers(one_by_one, None, queue.close)


def thingsboard(folder: Path) -> Writers:
    """The gateway's SQLite storage: `put` queues a text, a thread writes up to 1,000 in a transaction. Timed until it
    says that all are stored; nobody can wait for one."""
    from thingsboard_gateway.storage.sqlite.sqlite_event_storage import SQLiteEventStorage

    class Logger(logging.Logger):
        """It expects the gateway's own, which has a level more."""

        def trace(self, *_: object, **__: object) -> None:
            pass

    folder.mkdir()
    storage = SQLiteEventStorage({"data_file_path": f"{folder}/"}, Logger("thingsboard", "CRITICAL"), threading.Event())

    def stored() -> int:
        waiting: int = storage.write_queue.qsize()
        return int(storage.len()) - waiting

    def together(rows: Sequence[Row]) -> None:
        before = stored()
        for device, moment, data in rows:
            telemetry = [{"ts": round(moment.timestamp() * 1000), "values": data}]
            storage.put(json.dumps({"deviceName": device, "telemetry": telemetry, "attributes": []}))
        while stored() < before + len(rows):
            time.sleep(0.01)

    return Writers(None, together, storage.stop)


OTHERS: dict[str, Callable[[Path], Writers]] = {
    "Django": django,
    "SQLAlchemy": sqlalchemy,
    "peewee": peewee,
    "ThingsBoard gateway": thingsboard,
    "persist-queue": persist_queue,
}
