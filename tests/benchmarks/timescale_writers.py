"""The processes that `timescale_writing` measures: the product, its floors, and what else people write with.

Each begins with the same readings in memory and writes them in batches, a transaction each, into one hypertable.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.benchmarks.child import listen, say, settings_from_command_line

START = datetime(2026, 1, 1, tzinfo=UTC)
DEVICES = 20
FIELDS = ("voltage", "current", "power", "temperature")
COLUMNS = ("gateway_id", "device_id", '"timestamp"', "store_epoch", "gateway_seq", "quality", *FIELDS)
TYPES = ("text", "text", "timestamptz", "int8", "int8", "int2", *["float8"] * 4)
GATEWAY = "roof"
Tuples = list[tuple[Any, ...]]
Run = Callable[[Tuples], None]


def tuples(count: int, first: int = 0) -> Tuples:
    """Readings as rows of the table, from a number on."""
    return [
        (
            GATEWAY,
            f"string {number % DEVICES}",
            START + timedelta(milliseconds=100 * number),
            1,
            number + 1,
            None,
            300 + number % 977 / 10,
            number % 101 / 8,
            number % 4_001 / 2,
            number % 613 / 10 - 10,
        )
        for number in range(first, first + count)
    ]


def model() -> type[Any]:
    from edgedepot import Reading

    class Inverter(Reading):
        voltage: float
        current: float
        power: float
        temperature: float

    return Inverter


def batches(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def prepare_floor(settings: Mapping[str, Any], rows: Tuples, again: bool) -> Callable[[], None]:
    """Bare psycopg: binary COPY, and for rows that are there already COPY and the same ON CONFLICT."""
    import psycopg

    connection = psycopg.connect(settings["url"])
    names = ", ".join(COLUMNS)
    target = "staging" if again else "inverter"
    if again:
        connection.execute(
            f"CREATE TEMPORARY TABLE staging ON COMMIT DELETE ROWS AS SELECT {names} FROM inverter WITH NO DATA"
        )
        connection.commit()
    merges = ", ".join(f"{name} = coalesce(excluded.{name}, t.{name})" for name in FIELDS)
    upsert = (
        f"INSERT INTO inverter AS t ({names}) SELECT {names} FROM staging"
        f" ON CONFLICT (gateway_id, device_id, timestamp) DO UPDATE SET {merges}, quality = excluded.quality,"
        " store_epoch = excluded.store_epoch, gateway_seq = excluded.gateway_seq, received_at = excluded.received_at"
        " WHERE (excluded.store_epoch, excluded.gateway_seq) > (t.store_epoch, t.gateway_seq)"
    )

    def run() -> None:
        for batch in batches(rows, settings["batch"]):
            with connection.cursor() as cursor:
                with cursor.copy(f"COPY {target} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(TYPES)
                    for row in batch:
                        copy.write_row(row)
                if again:
                    cursor.execute(upsert)
            connection.commit()
        connection.close()

    return run


def prepare_product(settings: Mapping[str, Any], rows: Tuples, again: bool) -> Callable[[], None]:
    from edgedepot import TimescaleDBStorage, Version

    versions = [
        Version(device, moment, dict(zip(FIELDS, values, strict=True)), quality, epoch, seq)
        for _, device, moment, epoch, seq, quality, *values in rows
    ]
    storage = TimescaleDBStorage(settings["url"], gateway_id=GATEWAY)
    inverter = model()
    storage.query_readings(inverter, limit=1)

    def run() -> None:
        for batch in batches(versions, settings["batch"]):
            receipt = storage.store_readings(inverter, batch)
            assert (receipt.duplicates if again else receipt.accepted) == len(batch)
        storage.close()

    return run


def prepare_executemany(settings: Mapping[str, Any], rows: Tuples, again: bool) -> Callable[[], None]:
    import psycopg

    connection = psycopg.connect(settings["url"])
    marks = ", ".join(["%s"] * len(COLUMNS))
    statement = f"INSERT INTO inverter ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING"

    def run() -> None:
        for batch in batches(rows, settings["batch"]):
            with connection.cursor() as cursor:
                cursor.executemany(statement, batch)
            connection.commit()
        connection.close()

    return run


KINDS = {"floor": prepare_floor, "product": prepare_product, "executemany": prepare_executemany}


def main() -> None:
    settings = settings_from_command_line()
    run = KINDS[settings["kind"]](settings, tuples(settings["readings"]), settings["again"])
    say(ready=True)
    listen("go")
    began = time.perf_counter()
    run()
    say(seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
