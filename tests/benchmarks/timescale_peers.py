"""What else people write readings with, in an environment that has that and nothing of ours: for `timescale_writing`.

Each goes through its own API at its defaults, in batches with a commit each where it has such.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.child import listen, say, settings_from_command_line
from tests.benchmarks.timescale_writers import COLUMNS, FIELDS, Tuples, batches, tuples
from tests.servers import FOLDER

ENVIRONMENT = FOLDER / "peers"
PACKAGES = ("django-devicehub==0.2.1", "SQLAlchemy==2.0.44", "psycopg[binary]==3.3.9")


def fetch_peers(folder: Path = ENVIRONMENT) -> str:
    """The interpreter of the environment, which is made where it is not there yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)


def prepare_sqlalchemy(settings: Mapping[str, Any], rows: Tuples) -> Callable[[], None]:
    """Its ORM: an object for each reading, added to a session."""
    from sqlalchemy import BigInteger, DateTime, SmallInteger, create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):  # type: ignore[misc]  # it is not installed where types are checked
        pass

    class Inverter(Base):
        __tablename__ = "inverter"
        gateway_id: Mapped[str] = mapped_column(primary_key=True)
        device_id: Mapped[str] = mapped_column(primary_key=True)
        timestamp: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
        store_epoch: Mapped[int] = mapped_column(BigInteger)
        gateway_seq: Mapped[int] = mapped_column(BigInteger)
        quality: Mapped[int | None] = mapped_column(SmallInteger)
        voltage: Mapped[float]
        current: Mapped[float]
        power: Mapped[float]
        temperature: Mapped[float]

    engine = create_engine(settings["url"].replace("postgresql://", "postgresql+psycopg://"))
    names = [name.strip('"') for name in COLUMNS]

    def run() -> None:
        with Session(engine) as session:
            for batch in batches(rows, settings["batch"]):
                session.add_all([Inverter(**dict(zip(names, row, strict=True))) for row in batch])
                session.commit()
        engine.dispose()

    return run


def prepare_devicehub(settings: Mapping[str, Any], rows: Tuples) -> Callable[[], None]:
    """django-devicehub's TimescaleDB storage: a call for each reading, into a table of its own."""
    import django
    from django.conf import settings as django_settings

    url = urlsplit(settings["url"])
    database = {"HOST": url.hostname, "PORT": url.port, "USER": url.username, "NAME": url.path[1:]}
    django_settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}},
        INSTALLED_APPS=["django_devicehub"],
        USE_TZ=True,
        TIME_ZONE="UTC",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django.db import connection
    from django_devicehub import DeviceType, Reading, reading_types
    from django_devicehub.storage.timescale import TimescaleDBStorage

    declared = {name: Reading(type=reading_types.FLOAT) for name in FIELDS}
    inverter: Any = type("Inverter", (DeviceType,), {"__module__": "django_devicehub.models", **declared})
    device_model, reading_model = inverter.create_models("django_devicehub.models")[:2]
    with connection.schema_editor() as editor:
        for model in (device_model, reading_model):
            editor.create_model(model)
    devices = {
        device: device_model.objects.create(device_id=device, api_key=device) for device in {row[1] for row in rows}
    }
    storage = TimescaleDBStorage()
    calls = [(devices[row[1]], row[2], dict(zip(FIELDS, row[-len(FIELDS) :], strict=True))) for row in rows]

    def run() -> None:
        for device, moment, data in calls:
            storage.store_reading(reading_model, device, moment, data)
        connection.close()

    return run


KINDS = {"SQLAlchemy": prepare_sqlalchemy, "django-devicehub": prepare_devicehub}


def main() -> None:
    settings = settings_from_command_line()
    run = KINDS[settings["kind"]](settings, tuples(settings["readings"]))
    say(ready=True)
    listen("go")
    began = time.perf_counter()
    run()
    say(seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
