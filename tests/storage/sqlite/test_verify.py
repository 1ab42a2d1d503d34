"""Values that changed on the card are found out, each of them, and nothing that is right is called wrong."""

import math
import sqlite3
import struct
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import Device, SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.reading import define_model
from edgedepot.storage.sqlite.backup import restore
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.digest import prepare_digests, row_digest
from edgedepot.storage.sqlite.report import LostSpan
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.verify import Problem, Verification, Verified
from tests.models import Mixed, Weather
from tests.storage.sqlite.damaged import PAGE, STAGES, T0, deliver, rows
from tests.storage.sqlite.test_writer import advance_until

BITS = 64
FIELDS = 200


def verified(path: Path) -> Verified:
    with Verification(path) as verification:
        told: list[tuple[int, int]] = []
        found = verification.run(lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    return found


def problems(path: Path) -> list[Problem]:
    return verified(path).problems


def execute(path: Path, sql: str, *values: object) -> int:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        return file.execute(sql, values).rowcount


@pytest.fixture
def folded(quick_folder: Path) -> Path:
    """600 readings of four devices over ten hours in history, none in the journal alone, closed."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, piece_rows=100) as store:
        store.store_readings(Weather, rows(0, 300)).wait()
        store.fold()
        store.store_readings(Weather, rows(300, 600)).wait()
        store.fold()
    return path


@pytest.mark.parametrize(("kind", "value"), [(float, 1.5), (int, 7), (str, "x")])
def test_a_model_of_as_many_fields_as_may_be(quick_folder: Path, kind: type, value: object) -> None:
    """Before and after the fold; and one value that changed among all."""
    wide = define_model("Wide", {f"f{number}": (kind, False, None) for number in range(FIELDS)})
    path = quick_folder / "x.db"
    with SQLiteStorage(path) as store:
        readings = [("d", T0 + timedelta(minutes=n), {f"f{k}": value for k in range(FIELDS)}) for n in range(10)]
        store.store_readings(wide, readings).wait()
        assert problems(path) == []
        store.fold()
    assert problems(path) == []
    execute(path, f"UPDATE _h_wide_1 SET c{FIELDS - 1} = ? WHERE seq = 5", "y" if kind is str else kind(8))
    assert [problem.kind for problem in problems(path)] == ["hours", "journal"]


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_wrong_with_a_store_in_use(quick_folder: Path, stage: str) -> None:
    """Also in the middle of it: merged, deleted, hours to be computed again, beside the process that writes."""
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", piece_rows=300) as store:
        STAGES[stage](store)
        found = verified(store.path)
        assert found.problems == []
        stored = [*store.query_readings(Weather), *store.query_readings(Mixed)]
        assert found.readings + found.unfolded == len(stored)
        store.fold()
        assert verified(store.path).problems == []


@pytest.mark.parametrize(
    "value", [0.1, 20.5, -3.75, 0.0, 1e-5, -1e-300, 5e-324, 2.0**61, -(2.0**60), 1e300, 1 / 3, 2.0**-9]
)
def test_every_bit_of_a_float_counts(value: float) -> None:
    (before,) = struct.unpack("<Q", struct.pack("<d", value))
    flipped = [struct.unpack("<d", struct.pack("<Q", before ^ 1 << bit))[0] for bit in range(BITS)]
    others = [other for other in flipped if other != value and not math.isnan(other)]
    assert len(others) >= BITS - 1
    known = digest(float, value)
    assert [other for other in others if digest(float, other) == known] == []


@pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, 2**63 - 1, -(2**63), 123456789012345])
def test_every_bit_of_an_integer_counts(value: int) -> None:
    (before,) = struct.unpack("<Q", struct.pack("<q", value))
    others = [struct.unpack("<q", struct.pack("<Q", before ^ 1 << bit))[0] for bit in range(BITS)]
    assert [other for other in [*others, None] if digest(int, other) == digest(int, value)] == []


def test_texts_and_absent_values_count() -> None:
    texts = ["", "a", "b", "ab", "ba", "ä", "a" * 1000, "a" * 999 + "b", None]
    assert len({digest(str, text) for text in texts}) == len(texts)
    assert len({digest(bool, flag) for flag in (None, 0, 1)}) == 3
    assert digest(float, None) == digest(int, None) == 0


def digest(kind: type, value: object) -> int:
    """Of a row that is zeros but for one field."""
    catalogue = Catalogue()
    layout = catalogue.layout(define_model("One", {"value": (kind, False, None)}))
    layout.written = layout.stored
    with closing(sqlite3.connect(":memory:")) as connection:
        prepare_digests(connection)
        row = "(SELECT 0 AS seq, 0 AS ts, NULL AS quality, ? AS c0)"
        query = f"SELECT {row_digest(layout, Partition(1, 0, 1, 1))} FROM {row}"
        return int(connection.execute(query, (value,)).fetchone()[0])


@pytest.mark.parametrize("later", [False, True], ids=["", "with a reading since"])
def test_a_salvage_makes_no_changed_value_right(folded: Path, later: bool) -> None:
    """Neither in an hour that is as it was, nor in one that more readings come into."""
    assert execute(folded, f"UPDATE _h_weather_1 SET c4 = c4 + 1 WHERE {PLACE}", *place(100)) == 1
    before = problems(folded)
    assert len(before) == 1
    assert before[0].readings is not None
    if later:
        with SQLiteStorage(folded) as store:
            device, moment = rows(100, 101)[0][:2]
            store.store_reading(Weather, device, moment + timedelta(seconds=1), {"temperature": 1.0})
    execute(folded, "UPDATE _sources SET name = x'00ff'")
    with SQLiteStorage(folded) as store:
        assert store.salvaged is not None
        assert store.salvaged.lost == 0
        where = before[0].readings.where
        assert f"readings of {where} are not those that were stored, see verify" in store.salvaged.notes
    after = problems(folded)
    assert [(one.kind, one.readings and one.readings.where) for one in after] == [("hours", where)]


CHANGES: dict[str, str] = {  # in the order of the model's fields
    "the last bit of a float": "c0 = c0 * (1 + 2.3e-16)",
    "an integer": "c4 = c4 + 1",
    "a character": "c3 = replace(c3, 'reading', 'readinh')",
    "a value that comes": "c1 = 0.0",
    "a value that goes": "c3 = NULL",
    "the quality": "quality = 1",
    "the number": "seq = seq + 1000",
    "the kind of a value": "c0 = 'x'",
}
PLACE = "series = (SELECT id FROM _series WHERE device_id = ?) AND ts = ?"


def place(number: int) -> tuple[str, int]:
    """Of one of the readings: device and time."""
    device, moment, _ = rows(number, number + 1)[0]
    return device, (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_value_is_named_by_device_and_hour(folded: Path, change: str) -> None:
    device, ts = place(333)
    assert execute(folded, f"UPDATE _h_weather_1 SET {CHANGES[change]} WHERE {PLACE}", device, ts) == 1
    found = problems(folded)
    (wrong,) = [problem for problem in found if problem.kind == "hours"]
    hour = T0 + timedelta(hours=5)
    assert wrong.readings == LostSpan("weather", device, hour, hour + timedelta(hours=1), 15)
    assert wrong.text.endswith("its readings are not those that were stored")
    assert any("of another kind" in problem.text for problem in found) == (change == "the kind of a value")


def test_a_byte_in_the_file_is_found_where_sqlite_sees_nothing(folded: Path) -> None:
    content = bytearray(folded.read_bytes())
    value = struct.pack(">d", 301 / 7)
    count = 0
    while (found := content.find(value)) >= 0:
        content[found + 7] ^= 1
        count += 1
    assert count >= 1
    folded.write_bytes(content)
    found_out = problems(folded)
    assert {problem.kind for problem in found_out} == {"hours"}
    assert len(found_out) == 1


@pytest.mark.parametrize("sql", ["rows = rows + 1", "sum0 = sum0 * 1.001", "min4 = 3", "last3 = 'x'", "digest = 7"])
def test_what_was_added_up_is_checked_too(folded: Path, sql: str) -> None:
    assert execute(folded, f"UPDATE _hour_weather_1 SET {sql} WHERE series = 2") == 10
    found = problems(folded)
    assert [problem.kind for problem in found] == ["hours"]  # ten hours one after another
    assert found[0].readings is not None
    assert found[0].readings.end - found[0].readings.start == timedelta(hours=10)


def test_readings_and_hours_that_are_gone_are_found(folded: Path) -> None:
    execute(folded, "DELETE FROM _h_weather_1 WHERE series = 1 AND ts % 7200000000 < 3600000000")
    execute(folded, "DELETE FROM _hour_weather_1 WHERE series = 3")
    found = [problem for problem in problems(folded) if problem.kind == "hours"]
    assert sum("are gone" in problem.text for problem in found) == 5
    assert sum("never stored" in problem.text for problem in found) == 1


def test_a_change_is_not_forgotten_when_its_hour_is_computed_again(folded: Path) -> None:
    """Because another reading of the hour was merged or deleted, or a late one came."""
    device, ts = place(333)
    execute(folded, f"UPDATE _h_weather_1 SET c0 = c0 + 1 WHERE {PLACE}", device, ts)
    other, moment, _ = rows(337, 338)[0]
    assert other == device
    with SQLiteStorage(folded, piece_rows=100) as store:
        store.store_reading(Weather, device, moment, {"temperature": -3.0}).wait()
        store.delete_readings(Weather, device, moment + timedelta(minutes=4), moment + timedelta(minutes=5))
        store.store_reading(Weather, device, moment + timedelta(seconds=1), {"temperature": 8.0}).wait()
        assert len(problems(folded)) == 1
        store.fold()
    found = problems(folded)
    assert [problem.kind for problem in found] == ["hours"]
    assert execute(folded, "DELETE FROM _dirty") == 0
    execute(folded, f"UPDATE _h_weather_1 SET c0 = ? WHERE {PLACE}", 333 / 7, device, ts)
    found = problems(folded)  # the value is what it was; what was added up since is of the other
    assert [problem.text.rpartition(": ")[2] for problem in found] == ["what was added up of its readings is not right"]


NAMES = [
    "UPDATE _series SET device_id = 'd5' WHERE device_id = 'd1'",
    "UPDATE _series SET model = 3 WHERE device_id = 'd1'",
    "UPDATE _models SET name = 'weathes'",
    "UPDATE _models SET fields = replace(fields, 'temperature', 'temperaturd')",
    "UPDATE _models SET fields = replace(fields, 'bool', 'float')",
    "UPDATE _sources SET name = 'direcu'",
]


@pytest.mark.parametrize("statement", NAMES)
def test_a_changed_name_is_found_and_put_right(folded: Path, statement: str) -> None:
    """The copy beside the store is right: each line of it has a checksum."""
    copy = Sidecar(folded)
    with SQLiteStorage(folded, read_only=True) as store:
        expected = store.query_readings(Weather)
    assert execute(folded, statement) == 1
    assert "names" in {problem.kind for problem in problems(folded)}
    link = folded.with_name("y.db")  # beside which there is no copy of the names
    link.symlink_to(folded)
    assert problems(link) == problems(folded)
    with SQLiteStorage(folded) as store:
        assert store.salvaged is not None
        assert "by the copy beside the store" in str(store.salvaged)
        assert store.salvaged.lost == 0
        assert store.query_readings(Weather) == expected
        assert store.store_readings(Weather, rows(0, 600)).wait().duplicates == 600
    for kind in ("model", "series", "source"):
        assert Sidecar(folded).rows(kind) == copy.rows(kind)
    assert problems(folded) == []


@pytest.mark.parametrize("given", [None, "roof"])
def test_a_gateway_that_changed_its_name(quick_folder: Path, given: str | None) -> None:
    """Its readings would go upstream as those of another."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.store_readings(Weather, rows(0, 10)).wait()
    assert execute(path, "UPDATE _meta SET value = 'rood' WHERE key = 'gateway_id'") == 1
    text = "the store is of gateway 'rood', by the copy beside it of 'roof'"
    assert [(problem.kind, problem.text) for problem in problems(path)] == [("names", text)]
    with SQLiteStorage(path, gateway_id=given) as store:
        assert store.gateway_id == "roof"
        assert store.salvaged is not None
        assert (store.salvaged.kept, store.salvaged.lost) == (10, 0)
    assert problems(path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE _quarantined SET data = '{'",
        "UPDATE _quarantined SET model = 'weathes'",
        "UPDATE _devices SET metadata = '{'",
        "UPDATE _cursors SET lost = -1",
        "UPDATE _withheld SET cursor = 7",
        "UPDATE _replaced SET series = 77",
        "INSERT INTO _meta VALUES ('choice_1', '[')",
    ],
)
def test_a_record_that_the_store_cannot_make_use_of(quick_folder: Path, statement: str) -> None:
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.add_cursor("central")
        store.save_device(Device("d1", name="the first"))
        store.store_readings(Weather, rows(0, 20)).wait()
        store.store_reading(Weather, *rows(3, 4)[0][:2], {"temperature": -1.0}).wait()
        store.delete_readings(Weather, *rows(5, 6)[0][:2])
        window = store.pending("central", 3)
        assert window is not None
        store.quarantine("central", window.rows, "refused")
        store.acknowledge("central", window)
    assert problems(store.path) == []
    assert execute(store.path, statement) > 0
    assert "records" in {problem.kind for problem in problems(store.path)}


def test_a_name_that_became_anothers(quick_folder: Path) -> None:
    """In a table whose index lacks it, so that both can be there."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path) as store:
        store.store_readings(Weather, rows(0, 100)).wait()
        store.fold()
        expected = store.query_readings(Weather)
    content = path.read_bytes()
    assert content.count(b"\x01d2") == 1
    path.write_bytes(content.replace(b"\x01d2", b"\x01d3"))
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.query_readings(Weather) == expected
    assert problems(path) == []


def test_numbers_of_another_life_contradict_nothing(quick_folder: Path) -> None:
    """A backup comes back, and what it never knew has left its numbers in the copy of the catalogue."""
    path, copy, later = (quick_folder / name for name in ("x.db", "copy.db", "later.db"))
    with SQLiteStorage(path) as store:
        store.store_reading(Weather, "first", T0, {"temperature": 1.0}).wait()
        store.backup(copy)
        store.store_reading(Weather, "second", T0, {"temperature": 1.0}).wait()
        store.backup(later)
    restore(copy, path, 1, force=True)
    with SQLiteStorage(path) as store:
        store.store_reading(Weather, "third", T0, {"temperature": 1.0}).wait()
    assert [line[0] for line in Sidecar(path).rows("series")] == [1, 2, 3]
    Sidecar(path).path.write_text("", "ascii")
    with SQLiteStorage(path) as store:
        store.store_reading(Weather, "fourth", T0, {"temperature": 1.0}).wait()
    assert execute(path, "UPDATE _series SET id = 2 WHERE id = 3") == 1  # as if it had gone on on another machine
    Sidecar(path).note(("series", 2, 1, "third"))
    restore(later, path, 2, force=True)
    with SQLiteStorage(path) as store:
        assert {device.device_id for device in store.devices()} == {"first", "second"}
        assert store.salvaged is not None
        assert store.salvaged.reason == "restored from a backup"
    assert problems(path) == []


@pytest.mark.parametrize("newest", ["newest - 1099511627776", "NULL"])
def test_a_newest_reading_that_is_older_than_others(folded: Path, newest: str) -> None:
    """Duplicates are told by it. The fold comes upon them, and the salvage puts it right."""
    execute(folded, f"UPDATE _series SET newest = {newest} WHERE device_id = 'd1'")
    assert [problem.kind for problem in problems(folded)] == ["history"]
    clock = ManualClock(T0)
    with SQLiteStorage(folded, clock=clock) as store:
        expected = store.query_readings(Weather)
        store.store_readings(Weather, rows(0, 600)).wait()
        folding = threading.Thread(target=store.fold)
        folding.start()
        advance_until(clock, lambda: not folding.is_alive())
        assert store.query_readings(Weather) == expected
        assert store.ledger().problems == []
    assert problems(folded) == []


def test_a_piece_with_other_readings_than_are_on_record(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "x.db", piece_rows=50) as store:
        store.add_cursor("central")
        for first in (0, 60):
            store.store_readings(Weather, rows(first, first + 60)).wait()
            store.fold()
    assert execute(store.path, "UPDATE _pieces SET live = live + 8 WHERE id = 1") == 1
    assert "journal" in {problem.kind for problem in problems(store.path)}


def test_a_row_of_the_journal_that_is_not_as_in_history(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
        store.fold()
    execute(store.path, "UPDATE _j_1 SET c0 = c0 + 0.5 WHERE seq IN (50, 51)")
    found = problems(store.path)
    assert [(problem.kind, problem.readings and problem.readings.device_id) for problem in found] == [
        ("journal", "d1"), ("journal", "d2"),
    ]  # fmt: skip


def test_a_row_of_the_journal_that_cannot_have_been_stored(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.store_readings(Weather, rows(0, 100)).wait()
    execute(store.path, "UPDATE _j_1 SET quality = 'junk' WHERE seq IN (50, 51)")
    execute(store.path, "UPDATE _j_1 SET series = 77 WHERE seq = 52")
    assert [(problem.kind, problem.text[:2]) for problem in problems(store.path)] == [("journal", "3 ")]


def test_what_sqlite_cannot_read_is_a_problem_and_the_rest_is_looked_at(folded: Path) -> None:
    with closing(sqlite3.connect(folded)) as file:
        root = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = '_hour_weather_1'").fetchone()[0]
    content = bytearray(folded.read_bytes())
    content[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    folded.write_bytes(content)
    found = verified(folded)
    assert {"structure", "history"} <= {problem.kind for problem in found.problems}
    assert found.readings == 600


def test_books_that_do_not_balance(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
        deliver(store, 50)
    execute(store.path, "DELETE FROM _j_1 WHERE seq = 60")
    assert [problem.kind for problem in problems(store.path)] == ["books"]


def test_a_model_that_gains_a_field_in_the_middle_of_an_hour(quick_folder: Path) -> None:
    small = define_model("Weather", {"temperature": (float, True, None)})
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.store_readings(small, [(d, t, {"temperature": 1.5}) for d, t, _ in rows(0, 100)]).wait()
        store.fold()
        assert problems(store.path) == []
        store.store_readings(Weather, rows(100, 130)).wait()
        assert problems(store.path) == []
        store.fold()
        store.delete_readings(Weather, "d1", T0, T0 + timedelta(minutes=30))
        assert problems(store.path) == []
        store.fold()
        assert problems(store.path) == []


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="does not exist"):
        Verification(tmp_path / "x.db")
    (tmp_path / "x.db").write_bytes(b"x" * 5000)
    with pytest.raises(StoreUnusable, match="cannot be read as a store"):
        Verification(tmp_path / "x.db")


@pytest.mark.parametrize("change", ["ts = ts | 1048576", "ts = NULL", "series = series % 4 + 1", "series = -series"])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_row_of_the_journal_that_is_in_history_under_another_device_or_time(
    quick_folder: Path, change: str, trusted: bool
) -> None:
    """It is still to be sent: the upstream would get a reading that never was. So also where nobody knew the time when
    it came."""
    path = quick_folder / "x.db"
    clock = ManualClock(T0 + timedelta(days=1))
    clock.trusted = trusted
    with SQLiteStorage(path, gateway_id="roof", piece_rows=100, clock=clock) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 300)).wait()
        clock.trusted = True
        store.flush()
        store.fold()
    assert problems(path) == []
    assert execute(path, f"UPDATE _j_1 SET {change} WHERE seq BETWEEN 20 AND 29") == 10
    found = problems(path)
    assert {one.kind for one in found} == {"journal"}
    assert all("the journal has another device or time" in one.text for one in found)
    assert sum(one.readings.count for one in found if one.readings is not None) >= 5
