"""Writes: checked, idempotent, guarded by version, merged."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from edgedepot import ConfigError, Device, InvalidValue, Reading, TimescaleDBStorage, Version
from edgedepot.storage.base import Data, StoreRow
from edgedepot.storage.errors import DataRefused
from edgedepot.storage.receipt import Receipt
from tests.models import Mixed
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def version(data: Data, seq: int, epoch: int = 1, device: str = "mast", quality: int | None = None) -> Version:
    return Version(device, T0, data, quality, epoch, seq)


def stored(look: Look) -> list[tuple[Any, ...]]:
    return look("SELECT device_id, a, b, quality, store_epoch, gateway_seq FROM mixed ORDER BY device_id, timestamp")


def counts(receipt: Receipt) -> tuple[int, int | None, int]:
    assert receipt.level == "durable"
    return receipt.accepted, receipt.duplicates, len(receipt.refused)


# -- batches --------------------------------------------------------------------------------------------------------


def test_good_rows_are_stored_and_bad_ones_listed(storage: TimescaleDBStorage) -> None:
    rows: list[Any] = [
        ("mast", T0, {"a": 1.0}),
        ("mast", T0.replace(tzinfo=None), {"a": 1.0}),
        ("mast", T0, {"a": float("nan")}),
        ("mast", T0, {"c": 1.0}),
        ("", T0, {"a": 1.0}),
        ("a\0b", T0, {"a": 1.0}),
        ("mast", T0, {}),
        ("mast", T0),
        7,
        ("mast", T0, {"number": 2**63}),
        ("mast", T0, {"text": "\ud800"}),
        ("mast", T0, {"text": "x" * 1025}),
        ("mast", T0, [1]),
        ("mast", datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))), {"a": 1.0}),
        Version("mast", T0, {"a": "warm"}, None, 1, 2),
        Version("mast", T0, {"a": 1.0}, None, 1, -2),
        Version("mast", T0, {"a": 1.0}, None, 2**63, 1),
        Version("mast", T0, {"a": 1.0}, 2**15, 1, 1),
        Version("mast", None, {"a": 1.0}, None, 1, 1),  # type: ignore[arg-type]
        ("mast", T0 + timedelta(seconds=1), {"a": 2.0}),
    ]
    receipt = storage.store_readings(Mixed, rows)
    assert counts(receipt) == (2, 0, 18)
    assert [refusal.index for refusal in receipt.refused] == list(range(1, 19))
    reasons = [refusal.reason for refusal in receipt.refused]
    assert "has no time zone" in reasons[0]
    assert "Mixed: a is nan, expected a finite number" in reasons[1]
    assert "(device, timestamp, data)" in reasons[6]
    assert reasons[6] == reasons[7]
    assert "years 1 to 9999" in reasons[12]
    assert "Mixed: a is str 'warm', expected float" in reasons[13]
    assert "version (1, -2)" in reasons[14]
    assert [row["a"] for row in storage.query_readings(Mixed)] == [2.0, 1.0]


def test_one_bad_reading_raises_and_no_server_is_needed_to_say_so() -> None:
    with TimescaleDBStorage("postgresql://127.0.0.1:1/nowhere", gateway_id="roof") as storage:
        with pytest.raises(InvalidValue, match="Mixed: a is str 'warm', expected float"):
            storage.store_reading(Mixed, "mast", T0, {"a": "warm"})
        assert counts(storage.store_readings(Mixed, [])) == (0, 0, 0)


def test_every_storable_value_comes_back_as_it_was(storage: TimescaleDBStorage) -> None:
    numbers = [0.0, -0.0, 5e-324, -1.7976931348623157e308, 0.1, 1e22 + 2**22]
    texts = ["", "'; DROP TABLE mixed; --", "%s %(x)s {} {0}", "\\N\t\r\n\\.", "°C ẞ 漢 😀", '"', "x" * 1024]
    integers = [-(2**63), 2**63 - 1, 0]
    devices = ["a'b", 'a"b', "%s", "{}", "\\", "\n", "漢😀", "d" * 1024, "NULL", " "]
    moments = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), T0 + timedelta(microseconds=1)]
    rows = [
        (device, moment, {"b": number, "text": text, "number": integer, "flag": flag})
        for device, moment, number, text, integer, flag in zip(
            devices,
            itertools.cycle(moments),
            itertools.cycle(numbers),
            itertools.cycle(texts),
            itertools.cycle(integers),
            itertools.cycle([True, False]),
        )
    ]
    assert counts(storage.store_readings(Mixed, rows)) == (len(rows), 0, 0)
    for device, moment, data in rows:
        [row] = storage.query_readings(Mixed, device)
        assert row == {"device_id": device, "timestamp": moment, "a": None, **data}
        assert [repr(row[name]) for name in data] == [repr(value) for value in data.values()]
        assert row["timestamp"].tzinfo is UTC
        assert storage.delete_readings(Mixed, device, moment) == 1


def test_a_device_may_be_an_object_and_a_timestamp_in_any_zone(storage: TimescaleDBStorage) -> None:
    elsewhere = T0.astimezone(timezone(timedelta(hours=5, minutes=45)))
    storage.store_reading(Mixed, Device("mast"), elsewhere, {"a": 1})
    assert storage.query_readings(Mixed, Device("mast"), fields=["a"]) == [
        {"device_id": "mast", "timestamp": T0, "a": 1.0}
    ]
    assert storage.store_reading(Mixed, "mast", T0, {"a": 1.0}).duplicates == 1


def test_rows_without_a_time_are_stamped_now_each_apart(storage: TimescaleDBStorage) -> None:
    before = datetime.now(UTC)
    storage.store_readings(Mixed, [("mast", None, {"a": float(n)}) for n in range(50)])
    storage.store_reading(Mixed, "mast", None, {"a": 50.0})
    found = storage.query_readings(Mixed, order="timestamp")
    assert [row["a"] for row in found] == [float(n) for n in range(51)]
    assert before <= found[0]["timestamp"] <= found[-1]["timestamp"] <= datetime.now(UTC)


@pytest.mark.parametrize("copy", [True, False])
def test_rows_that_the_server_refuses_are_named_and_the_others_stored(connect: Connect, look: Look, copy: bool) -> None:
    storage = connect(copy=copy)
    storage.store_reading(Mixed, "mast", T0, {"a": 0.0})
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a <> 13)")
    rows: list[Any] = [("mast", T0 + timedelta(seconds=n), {"a": float(n % 50), "text": str(n)}) for n in range(1, 301)]
    rows[250] = ("mast", T0 + timedelta(seconds=251), {"text": "a\0b"})
    rows[0] = ("mast", T0, {"a": "warm"})
    receipt = storage.store_readings(Mixed, rows)
    assert counts(receipt) == (292, 0, 8)
    assert [refusal.index for refusal in receipt.refused] == [0, 12, 62, 112, 162, 212, 250, 262]
    assert "plausible" in receipt.refused[1].reason
    assert receipt.refused[1].reason.endswith("(SQLSTATE 23514)")
    assert "holds a NUL" in receipt.refused[6].reason
    assert storage.aggregate(Mixed, "text", "count") == {"result": 292}


def test_rows_that_a_merge_makes_wrong_are_found_though_no_line_is_reported(connect: Connect, look: Look) -> None:
    storage = connect()
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(300)]
    storage.store_readings(Mixed, rows)
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a + b <> 100)")
    more: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"b": 2.0 if n == 98 else 1.0}) for n in range(300)]
    receipt = storage.store_readings(Mixed, more)
    assert counts(receipt) == (298, 0, 2)
    assert [refusal.index for refusal in receipt.refused] == [98, 99]
    assert storage.aggregate(Mixed, "b", "count") == {"result": 298}


@pytest.mark.parametrize("copy", [True, False])
def test_rows_that_are_found_wrong_at_the_commit_are_named(connect: Connect, look: Look, copy: bool) -> None:
    storage = connect(copy=copy)
    storage.store_reading(Mixed, "mast", T0, {"a": 0.0})
    look("CREATE TABLE sites (name text PRIMARY KEY)")
    look("INSERT INTO sites VALUES ('here')")
    look("ALTER TABLE mixed ADD CONSTRAINT known FOREIGN KEY (text) REFERENCES sites DEFERRABLE INITIALLY DEFERRED")
    rows: list[StoreRow] = [
        ("mast", T0 + timedelta(seconds=n), {"text": "there" if n in (7, 99) else "here"}) for n in range(1, 100)
    ]
    receipt = storage.store_readings(Mixed, rows)
    assert counts(receipt) == (97, 0, 2)
    assert [refusal.index for refusal in receipt.refused] == [6, 98]
    assert receipt.refused[0].reason.endswith("(SQLSTATE 23503)")


_COUNTS_ATTEMPTS = """
    CREATE TABLE attempts (number serial);
    CREATE OR REPLACE FUNCTION attempt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('attempts_number_seq') = 1 AND TG_ARGV[0] = 'fail' THEN
            RAISE EXCEPTION 'not today' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER attempt BEFORE INSERT ON mixed EXECUTE FUNCTION attempt(
"""


def test_no_row_is_refused_for_what_happens_only_once(connect: Connect, look: Look) -> None:
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": 1.0}) for n in range(100)]
    storage = connect()
    storage.store_readings(Mixed, rows[:1])
    look(_COUNTS_ATTEMPTS + "'fail')")
    assert counts(storage.store_readings(Mixed, rows[1:50])) == (49, 0, 0)
    look("SELECT setval('attempts_number_seq', 1, false)")
    storage = connect(copy=False)
    with pytest.raises(DataRefused, match="not today"):
        storage.store_readings(Mixed, rows)
    assert counts(storage.store_readings(Mixed, rows)) == (50, 50, 0)


def test_the_line_that_the_server_names_saves_looking_for_the_row(connect: Connect, look: Look) -> None:
    storage = connect()
    storage.store_reading(Mixed, "mast", T0, {"a": 0.0})
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a <> 200)")
    look(_COUNTS_ATTEMPTS + "'count')")
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(1, 500)]
    assert [refusal.index for refusal in storage.store_readings(Mixed, rows).refused] == [199]
    # The batch, the row of the line by itself, the batch without it.
    assert look("SELECT last_value FROM attempts_number_seq") == [(3,)]


def test_that_a_reading_is_there_is_no_reason_to_refuse_it(storage: TimescaleDBStorage, look: Look) -> None:
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(10)]
    storage.store_readings(Mixed, rows[-1:])
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a > 1)")
    receipt = storage.store_readings(Mixed, rows)
    assert counts(receipt) == (7, 1, 2)
    assert [refusal.index for refusal in receipt.refused] == [0, 1]


def test_a_batch_with_many_bad_rows_is_refused_as_a_whole(connect: Connect, look: Look) -> None:
    storage = connect()
    storage.store_reading(Mixed, "mast", T0, {"a": 0.0})
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a < 283)")
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(1, 300)]
    with pytest.raises(DataRefused, match=r"more than 16 rows of 299 are refused: .*plausible") as caught:
        storage.store_readings(Mixed, rows)
    assert caught.value.code == "23514"
    assert storage.aggregate(Mixed, "a", "count") == {"result": 1}
    assert len(storage.store_readings(Mixed, rows[:-1]).refused) == 16


def test_a_batch_of_bad_rows_only_is_refused_as_a_whole_at_once(connect: Connect, look: Look) -> None:
    storage = connect()
    storage.store_reading(Mixed, "mast", T0, {"a": 0.0})
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a < 1)")
    rows: list[StoreRow] = [("mast", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(1, 10)]
    with pytest.raises(
        DataRefused, match=r"rows from all over are refused, maybe every one of 9: .*plausible"
    ) as caught:
        storage.store_readings(Mixed, rows)
    assert caught.value.code == "23514"
    assert len(storage.store_readings(Mixed, rows[:1]).refused) == 1


def test_one_reading_that_the_server_refuses_raises(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_reading(Mixed, "mast", T0, {"a": 1.0})
    look("ALTER TABLE mixed ADD CONSTRAINT plausible CHECK (a <> 13)")
    with pytest.raises(DataRefused, match=r"refuses a row: .*plausible.*SQLSTATE 23514") as caught:
        storage.store_reading(Mixed, "roof", T0, {"a": 13.0})
    assert caught.value.code == "23514"
    assert storage.aggregate(Mixed, "a", "count") == {"result": 1}


def test_without_a_gateway_id_nothing_is_written_or_deleted(connect: Connect, look: Look) -> None:
    storage = connect(None)
    for call in (
        lambda: storage.store_reading(Mixed, "mast", T0, {"a": 1.0}),
        lambda: storage.store_readings(Mixed, []),
        lambda: storage.delete_readings(Mixed),
    ):
        with pytest.raises(ConfigError, match="has no gateway_id"):
            call()
    storage.gateway_id = "roof"
    storage.store_reading(Mixed, "mast", T0, {"a": 1.0})
    assert look("SELECT gateway_id FROM mixed") == [("roof",)]


# -- the same identity again ----------------------------------------------------------------------------------------


def test_a_batch_sent_again_changes_nothing(storage: TimescaleDBStorage, look: Look) -> None:
    everything = "SELECT * FROM mixed ORDER BY device_id, timestamp"
    rows: list[StoreRow] = [
        Version(f"d{n % 7}", T0 + timedelta(seconds=n), {"a": float(n), "flag": n % 2 == 0}, None, 1, n + 1)
        for n in range(500)
    ]
    rows += [(f"e{n % 7}", T0 + timedelta(seconds=n), {"a": float(n)}) for n in range(500)]
    assert counts(storage.store_readings(Mixed, rows)) == (1000, 0, 0)
    before = look(everything)
    assert len(before) == 1000
    assert counts(storage.store_readings(Mixed, rows)) == (0, 1000, 0)
    assert counts(storage.store_readings(Mixed, rows[::-1] + rows)) == (0, 2000, 0)
    assert look(everything) == before


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("step", [timedelta(seconds=7), timedelta(hours=5)], ids=["dense", "far apart"])
def test_of_a_batch_that_is_partly_there_the_rest_is_stored(
    connect: Connect, look: Look, copy: bool, step: timedelta
) -> None:
    storage, other = connect(copy=copy), connect("cellar")

    def rows(numbers: range, seq: Callable[[int], int]) -> list[StoreRow]:
        return [Version(f"d{n % 3}", T0 + n * step, {"a": float(seq(n))}, None, 1, seq(n)) for n in numbers]

    first = rows(range(300), lambda n: n + 1)
    other.store_readings(Mixed, first)
    assert counts(storage.store_readings(Mixed, first)) == (300, 0, 0)
    # Every third is newer, 100 are not there yet, the others are there as they are.
    seqs = [n + 1 if n % 3 else n + 1000 for n in range(400)]
    second = rows(range(400), lambda n: seqs[n])
    assert counts(storage.store_readings(Mixed, second)) == (200, 200, 0)
    # What is older than what is there changes nothing.
    assert counts(storage.store_readings(Mixed, first[::-1])) == (0, 300, 0)
    found = look("SELECT gateway_seq, a FROM mixed WHERE gateway_id = 'roof' ORDER BY timestamp")
    assert found == [(seq, float(seq)) for seq in seqs]
    assert look("SELECT sum(gateway_seq), sum(a) FROM mixed WHERE gateway_id = 'cellar'") == [(45150, 45150.0)]


def test_a_batch_that_is_there_already_is_not_locked_there(storage: TimescaleDBStorage, look: Look) -> None:
    rows: list[StoreRow] = [Version("mast", T0 + timedelta(seconds=n), {"a": 1.0}, None, 1, n + 1) for n in range(100)]
    for _ in range(3):
        storage.store_readings(Mixed, rows)
    assert look("SELECT count(*) FILTER (WHERE xmax <> 0) FROM mixed") == [(0,)]


VERSIONS = (version({"a": 1.0}, 1), version({"a": 1.0, "b": 3.0}, 2), version({"a": 2.0, "b": 3.0}, 3))


@pytest.mark.parametrize("order", list(itertools.permutations(VERSIONS)))
@pytest.mark.parametrize("together", [False, True], ids=["batch each", "one batch"])
def test_versions_in_any_order_end_as_the_newest(
    storage: TimescaleDBStorage, look: Look, order: Sequence[Version], together: bool
) -> None:
    for batch in [order] if together else [[one] for one in order]:
        storage.store_readings(Mixed, batch)
    assert stored(look) == [("mast", 2.0, 3.0, None, 1, 3)]


def test_a_greater_epoch_is_newer_whatever_the_sequence(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_readings(Mixed, [version({"a": 1.0}, 900, epoch=1)])
    assert counts(storage.store_readings(Mixed, [version({"a": 2.0}, 3, epoch=2)])) == (1, 0, 0)
    assert counts(storage.store_readings(Mixed, [version({"a": 1.5}, 901, epoch=1)])) == (0, 1, 0)
    assert stored(look) == [("mast", 2.0, None, None, 2, 3)]


def test_a_null_never_replaces_a_value_and_the_quality_is_the_newer_versions(
    storage: TimescaleDBStorage, look: Look
) -> None:
    storage.store_readings(Mixed, [version({"a": 200.0, "b": 3.0}, 1, quality=1)])
    assert stored(look) == [("mast", 200.0, 3.0, 1, 1, 1)]
    storage.store_readings(Mixed, [version({"a": 20.0}, 2)])
    assert stored(look) == [("mast", 20.0, 3.0, None, 1, 2)]


@pytest.mark.parametrize("swap", [False, True])
def test_versions_of_one_batch_merge_as_if_sent_one_after_the_other(
    storage: TimescaleDBStorage, look: Look, swap: bool
) -> None:
    rows = [version({"a": 1.0, "b": 3.0}, 1, quality=4), version({"a": 2.0}, 2)]
    assert counts(storage.store_readings(Mixed, rows[::-1] if swap else rows)) == (2, 0, 0)
    assert stored(look) == [("mast", 2.0, 3.0, None, 1, 2)]


def test_the_quality_of_a_version_stands_and_that_of_a_direct_row_is_found(
    storage: TimescaleDBStorage, look: Look
) -> None:
    storage.store_readings(
        Mixed,
        [
            version({"a": 200.0}, 1, device="a", quality=None),
            version({"a": 20.0}, 2, device="b", quality=2 | 16),
            ("c", T0, {"a": 200.0}),
            Version("d", T0, {"a": 20.0}, 8),
        ],
    )
    assert [row[3] for row in stored(look)] == [None, 18, 1, 8]


def test_direct_rows_merge_and_leave_the_version(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_readings(Mixed, [version({"a": 1.0}, 5)])
    assert counts(storage.store_reading(Mixed, "mast", T0, {"b": 2.0})) == (1, 0, 0)
    assert stored(look) == [("mast", 1.0, 2.0, None, 1, 5)]
    assert counts(storage.store_reading(Mixed, "mast", T0, {"b": 2.0})) == (0, 1, 0)
    assert counts(storage.store_readings(Mixed, [version({"a": 9.0}, 4)])) == (0, 1, 0)
    storage.store_reading(Mixed, "mast", T0, {"a": 3.0})
    assert stored(look) == [("mast", 3.0, 2.0, None, 1, 5)]
    storage.store_readings(Mixed, [version({"a": 4.0}, 6)])
    assert stored(look) == [("mast", 4.0, 2.0, None, 1, 6)]


@pytest.mark.parametrize("together", [False, True], ids=["batch each", "one batch"])
@pytest.mark.parametrize("copy", [True, False])
def test_the_quality_of_merged_direct_rows_is_what_their_values_deserve(
    connect: Connect, look: Look, copy: bool, together: bool
) -> None:
    storage = connect(copy=copy)
    good, bad = {"a": 20.0}, {"a": 200.0}
    rows: list[StoreRow] = [("mended", T0, bad), ("mended", T0, good), ("spoilt", T0, good), ("spoilt", T0, bad)]
    rows += [Version("flagged", T0, bad, 2 | 1), Version("flagged", T0, good, 8), Version("same", T0, good, 8)]
    rows += [("same", T0, good)]
    batches = [rows] if together else [[row] for row in rows]
    found = [counts(storage.store_readings(Mixed, batch)) for batch in batches]
    assert [sum(column) for column in zip(*found, strict=True)] == [7, 1, 0]
    assert look("SELECT device_id, a, quality FROM mixed ORDER BY 1") == [
        ("flagged", 20.0, 2 | 8),
        ("mended", 20.0, None),
        ("same", 20.0, 8),
        ("spoilt", 200.0, 1),
    ]


def test_a_version_takes_over_what_was_written_directly(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_reading(Mixed, "mast", T0, {"a": 1.0, "b": 2.0})
    assert stored(look) == [("mast", 1.0, 2.0, None, 0, 0)]
    storage.store_readings(Mixed, [version({"a": 3.0}, 1)])
    assert stored(look) == [("mast", 3.0, 2.0, None, 1, 1)]


def test_direct_rows_of_a_batch_merge_in_their_order_after_the_versions(
    storage: TimescaleDBStorage, look: Look
) -> None:
    rows: list[StoreRow] = [
        ("mast", T0, {"a": 1.0, "b": 1.0}),
        ("mast", T0, {"a": 2.0}),
        version({"a": 3.0, "b": 3.0}, 7),
        ("mast", T0, {"a": 2.0, "b": 1.0}),
    ]
    assert counts(storage.store_readings(Mixed, rows)) == (3, 1, 0)
    assert stored(look) == [("mast", 2.0, 1.0, None, 1, 7)]


def test_a_subclass_that_overrides_store_reading_sees_every_row(timescale_url: str, look: Look) -> None:
    seen: list[tuple[object, object]] = []

    class Doubled(TimescaleDBStorage):
        def store_reading(
            self,
            reading_model: type[Reading],
            device: object,
            timestamp: datetime | None,
            data: Data,
            *,
            version: Version | None = None,
        ) -> Receipt:
            seen.append((device, version and version.gateway_seq))
            doubled = {name: value * 2 for name, value in data.items()}
            return super().store_reading(reading_model, device, timestamp, doubled, version=version)

    with Doubled(timescale_url, gateway_id="roof") as storage:
        rows: list[StoreRow] = [version({"a": 1.0}, 5), ("roof", T0, {"a": 2.0}), ("roof", T0, {"a": [1]})]
        receipt = storage.store_readings(Mixed, rows)
    assert seen == [("mast", 5), ("roof", None), ("roof", None)]
    assert counts(receipt)[::2] == (2, 1)
    assert stored(look) == [("mast", 2.0, None, None, 1, 5), ("roof", 4.0, None, None, 0, 0)]


@pytest.mark.parametrize("setting", ["off", "local"])
def test_a_receipt_is_durable_whatever_the_users_default(
    connect: Connect, look: Look, timescale_url: str, setting: str
) -> None:
    look("CREATE TABLE seen (setting text)")
    storage = connect(url=f"{timescale_url}?options=-csynchronous_commit%3D{setting}")
    storage.store_reading(Mixed, "mast", T0, {"a": 1.0})
    look(
        "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$"
    )
    look("CREATE TRIGGER noting BEFORE INSERT ON mixed FOR EACH ROW EXECUTE FUNCTION note()")
    storage.store_reading(Mixed, "mast", T0 + timedelta(seconds=1), {"a": 1.0})
    assert look("SELECT setting FROM seen") == [({"off": "on", "local": "local"}[setting],)]
