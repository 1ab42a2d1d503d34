"""Lines from a serial port into the store. The ports are pseudo-terminals; only unplugging needs a pair from socat."""

import logging
import os
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SerialLineDriver, SQLiteStorage
from edgedepot.drivers.port import Port, PortSettings
from edgedepot.drivers.wake import Wake
from edgedepot.storage.errors import ConfigError, InvalidValue, StorageClosed, TransportError
from tests.drivers.running import HeldInlet, Running, file_numbers_from
from tests.models import Weather
from tests.servers.process import wait_until
from tests.servers.socat import PtyPair

CSV: dict[str, Any] = {"format": "csv", "columns": ["count", "temperature"]}


class Wire:
    """A pseudo-terminal: the driver opens `name`, the test writes to the other end."""

    def __init__(self) -> None:
        self._far, self._near = os.openpty()
        tty.setraw(self._near)
        self.name = os.ttyname(self._near)

    def send(self, data: bytes) -> None:
        os.write(self._far, data)

    def unplug(self) -> None:
        os.close(self._far)
        self._far = -1

    def close(self) -> None:
        for end in (self._far, self._near):
            if end >= 0:
                os.close(end)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def wake() -> Iterator[Wake]:
    wake = Wake()
    yield wake
    wake.close()


def driver(port: str, **settings: Any) -> SerialLineDriver:
    return SerialLineDriver(port, Weather, device_id="mast", **settings if "format" in settings else CSV | settings)


@contextmanager
def sent_at_open(wire: Wire, data: bytes) -> Iterator[None]:
    """Send the data when the driver says that the port is open, before it reads from it."""
    handler = logging.Handler()
    handler.emit = lambda record: wire.send(data)  # type: ignore[method-assign]
    logger = logging.getLogger("edgedepot.drivers.serial")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def rows(store: SQLiteStorage) -> list[tuple[object, object]]:
    """(count, temperature) of all readings, oldest first."""
    found = store.query_readings(Weather, order="timestamp")
    return [(row["count"], row["temperature"]) for row in found]


def test_lines_become_readings(store: SQLiteStorage, wire: Wire) -> None:
    with Running(driver(wire.name), store).wait_for("reading"):
        wire.send(b"1,20.5\r\n2,21\n\r\n3,\xff\n4\n5,-60.25\n")
        wait_until(lambda: store.ledger().sources.get("garden", {}).get("messages") == 6, "all lines are in")
    assert rows(store) == [(1, 20.5), (2, 21.0), (5, -60.25)]
    counts = store.ledger().sources["garden"]
    assert (counts["decoded"], counts["ignored"], counts["rejected"]) == (3, 1, 2)
    assert [(reject["raw"], reject["kind"]) for reject in store.rejected("garden")] == [
        (b"4", "message"),
        (b"3,\xff", "message"),
    ]


def test_lines_in_pieces_of_a_byte(store: SQLiteStorage, wire: Wire) -> None:
    with Running(driver(wire.name), store).wait_for("reading"):
        for number in range(3):
            for byte in b"%d,20.5\r\n" % number:
                wire.send(bytes([byte]))
        wait_until(lambda: len(rows(store)) == 3, "all lines are in")
    assert rows(store) == [(0, 20.5), (1, 20.5), (2, 20.5)]


def test_what_a_chunk_holds_is_taken_in_together(held: HeldInlet, wire: Wire) -> None:
    with Running(driver(wire.name), held).wait_for("reading"):
        wire.send(b"".join(b"%d,20.5\n" % number for number in range(100)))
        held.wait_messages(100)
    assert len(held.intakes) == 1


def test_a_line_that_is_too_long_is_rejected_and_the_next_is_read(store: SQLiteStorage, wire: Wire) -> None:
    with Running(driver(wire.name, max_line=100), store).wait_for("reading"):
        wire.send(b"1,20.5\n" + b"x" * 2000 + b"\n2,20.5\n")
        wait_until(lambda: len(rows(store)) == 2, "both lines are in")
    (reject,) = store.rejected("garden")
    assert (reject["kind"], reject["reason"], reject["raw"]) == ("message", "is longer than 100 bytes", b"x" * 101)
    assert rows(store) == [(1, 20.5), (2, 20.5)]


class TestFirstLine:
    """After the open the first line may lack its beginning."""

    def read(self, held: HeldInlet, wire: Wire, lines: list[bytes], **settings: Any) -> list[object]:
        """The counts of what is read, when the first line is there as soon as the port is open."""
        with sent_at_open(wire, lines[0]), Running(driver(wire.name, **settings), held).wait_for("reading"):
            held.wait_messages(1)
            wire.send(b"".join(lines[1:]))
            held.wait_messages(len(lines))
        return [arrival.row[5] for arrival in held.arrivals]

    def test_csv_cannot_tell_so_it_is_left_aside(self, held: HeldInlet, wire: Wire) -> None:
        assert self.read(held, wire, [b"1,20\n", b"2,20\n", b"3,20\n"]) == [2, 3]
        assert sum(intake.ignored for intake in held.intakes) == 1

    def test_json_can_tell_so_a_whole_one_is_kept(self, held: HeldInlet, wire: Wire) -> None:
        lines = [b'{"count": %d, "temperature": 20}\n' % number for number in (1, 2)]
        assert self.read(held, wire, lines, format="json") == [1, 2]

    def test_and_a_fragment_is_ignored_not_rejected(self, held: HeldInlet, wire: Wire) -> None:
        lines = [b'unt": 1, "temperature": 20}\n', b'{"count": 2, "temperature": 20}\n']
        assert self.read(held, wire, lines, format="json") == [2]
        assert sum(intake.ignored for intake in held.intakes) == 1
        assert [reject for intake in held.intakes for reject in intake.rejects] == []

    def test_after_a_pause_it_is_whole(self, held: HeldInlet, wire: Wire) -> None:
        with Running(driver(wire.name), held).wait_for("reading"):
            wire.send(b"1,20\n")
            held.wait_messages(1)
        assert [arrival.row[5] for arrival in held.arrivals] == [1]


class TestUnplug:
    def test_the_run_ends_with_a_transport_error(self, store: SQLiteStorage, wire: Wire) -> None:
        running = Running(driver(wire.name), store).wait_for("reading")
        wire.unplug()
        assert f"port {wire.name} went away" in str(running.wait_error())
        status = running.driver.status()
        assert (status.state, status.last_error) == ("failed", str(running.error))

    def test_replugged_it_is_found_by_its_name(self, store: SQLiteStorage, pty_pair: PtyPair) -> None:
        mast = driver(str(pty_pair.device))
        for number in range(3):
            running = Running(mast, store).wait_for("reading")
            pty_pair.peer.write_bytes(b"%d,20.5\n" % number)
            wait_until(lambda expected=number: len(rows(store)) == expected + 1, "the line is in")  # type: ignore[misc]
            pty_pair.unplug()
            assert isinstance(running.wait_error(), TransportError)
            assert "there is no such port" in str(Running(mast, store).wait_error())
            pty_pair.replug()
        assert rows(store) == [(0, 20.5), (1, 20.5), (2, 20.5)]

    def test_the_half_line_before_it_is_no_reading(self, held: HeldInlet, wire: Wire) -> None:
        running = Running(driver(wire.name), held).wait_for("reading")
        wire.send(b"1,20\n2,2")
        held.wait_messages(1)
        wire.unplug()
        running.wait_error()
        assert [arrival.row[5] for arrival in held.arrivals] == [1]


class TestStop:
    def test_while_it_waits_for_bytes(self, store: SQLiteStorage, wire: Wire) -> None:
        running = Running(driver(wire.name), store).wait_for("reading")
        running.stop()
        assert running.error is None
        assert running.driver.status().state == "stopped"

    def test_before_the_run_it_is_final(self, store: SQLiteStorage, wire: Wire) -> None:
        mast = driver(wire.name)
        mast.stop()
        mast.stop()
        running = Running(mast, store)
        wait_until(lambda: running.ended, "the run ends")
        assert (running.error, mast.status().state) == (None, "stopped")

    def test_a_full_store_keeps_no_one_from_stopping(self, held: HeldInlet, wire: Wire) -> None:
        held.busy = 10**9
        running = Running(driver(wire.name), held).wait_for("reading")
        wire.send(b"1,20\n")
        running.wait_for("waiting for the store").stop()
        assert held.intakes == []


def test_a_full_store_delays_and_loses_nothing(held: HeldInlet, wire: Wire) -> None:
    held.busy = 3
    with Running(driver(wire.name), held).wait_for("reading") as running:
        wire.send(b"1,20\n")
        running.wait_for("waiting for the store")
        wire.send(b"2,20\n")
        held.wait_messages(2)
        running.wait_for("reading")
    assert [arrival.row[5] for arrival in held.arrivals] == [1, 2]


def test_a_closed_store_ends_the_run(store: SQLiteStorage, tmp_path: Path, wire: Wire) -> None:
    other = SQLiteStorage(tmp_path / "other.db")
    running = Running(driver(wire.name), other).wait_for("reading")
    other.close()
    wire.send(b"1,20\n")
    assert isinstance(running.wait_error(), StorageClosed)


def test_status_and_log(store: SQLiteStorage, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgedepot")
    mast = driver(wire.name)
    assert (mast.status().state, mast.status().last_message) == ("new", None)
    with Running(mast, store).wait_for("reading"):
        assert mast.status().last_message is None
        before = time.monotonic()
        wire.send(b"1,20\n")
        wait_until(lambda: mast.status().last_message is not None, "the line is noticed")
        assert before <= (mast.status().last_message or 0) <= time.monotonic()
    assert f"garden: reading lines from {wire.name}" in caplog.text


class TestPort:
    def test_one_program_at_a_time(self, wire: Wire, wake: Wake) -> None:
        settings = PortSettings(wire.name)
        problem = f"{wire.name} cannot be opened: another program has it open"
        with Port(settings, wake), pytest.raises(TransportError, match=problem):
            Port(settings, wake)
        Port(settings, wake).close()

    def test_not_there(self, wake: Wake) -> None:
        with pytest.raises(TransportError, match="/dev/serial/by-id/none cannot be opened: there is no such port"):
            Port(PortSettings("/dev/serial/by-id/none"), wake)

    def test_no_port_at_all(self, tmp_path: Path, wake: Wake) -> None:
        file = tmp_path / "file"
        file.touch()
        for path in (file, tmp_path):
            with pytest.raises(TransportError, match=f"port {path} cannot be opened: it is no serial port"):
                Port(PortSettings(str(path)), wake)

    def test_a_read_ends_when_it_is_woken_or_in_time(self, wire: Wire, wake: Wake) -> None:
        with Port(PortSettings(wire.name), wake) as port:
            assert port.read(0.01) == b""
            wake.set()
            assert port.read() == b""
            wake.clear()
            wire.send(b"x")
            assert port.read() == b"x"

    def test_file_numbers_from_1024_on(self, wire: Wire, wake: Wake) -> None:
        with file_numbers_from(1024), Port(PortSettings(wire.name), wake) as port:
            wire.send(b"x")
            assert port.read() == b"x"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"baudrate": 0}, "baudrate: found 0, expected a number such as 9600"),
        ({"baudrate": "fast"}, "baudrate: found 'fast'"),
        ({"bytesize": 9}, "bytesize: found 9, expected one of 5, 6, 7, 8"),
        ({"parity": "X"}, "parity: found 'X', expected one of none, even"),
        ({"stopbits": 3}, "stopbits: found 3, expected one of 1, 1.5, 2"),
        ({"max_line": 0}, "max_line: found 0"),
        ({"device_id": ""}, "device_id: .*is empty"),
        ({"format": "jason"}, "format: "),
        ({"columns": ["count"]}, "requires temperature"),
        ({"bautrate": 9600}, "'bautrate'.*did you mean .baudrate"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        SerialLineDriver("/dev/ttyUSB0", Weather, **{"device_id": "mast", **CSV, **settings})


def test_a_port_must_have_a_name_and_a_model_must_be_one() -> None:
    with pytest.raises(ConfigError, match="port: found ''"):
        driver("")
    with pytest.raises(InvalidValue, match="no reading model"):
        SerialLineDriver("/dev/ttyUSB0", dict, device_id="mast")  # type: ignore[arg-type]
