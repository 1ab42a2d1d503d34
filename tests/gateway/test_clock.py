"""When a gateway trusts the machine's clock, and what it does until then."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedepot import ConfigError, Gateway, SQLiteStorage
from edgedepot.cli import program
from edgedepot.cli.target import open_store_to_write
from edgedepot.clock import GatewayClock, TrustWatch, has_own_time
from edgedepot.config import load
from tests.gateway.program import complaint
from tests.gateway.scripted import ScriptedDriver, eventually
from tests.gateway.third_party import ListStorage


class Kernel:
    """What the kernel says of its clock."""

    synchronised = False

    def __call__(self) -> bool:
        return self.synchronised


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def clock(kernel: Kernel, tmp_path: Path) -> GatewayClock:
    """The clock of a machine that has no other, and nobody has set."""
    return GatewayClock(synchronised=kernel, machine=tmp_path)


class Central(ListStorage):
    """An upstream with a clock of its own."""

    ahead = timedelta(0)

    def server_time(self) -> datetime | None:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def driver() -> ScriptedDriver:
    """Takes one reading in."""
    driver = ScriptedDriver()
    driver._steps = [driver.say]
    return driver


def test_a_machine_without_a_clock_is_trusted_once_the_kernel_says_so(clock: GatewayClock, kernel: Kernel) -> None:
    assert not clock.trusted
    assert not clock.look()
    kernel.synchronised = True
    assert clock.look()
    kernel.synchronised = False
    assert clock.look(), "for good"


def test_trust_always_needs_no_reason(kernel: Kernel, tmp_path: Path) -> None:
    assert GatewayClock("always", synchronised=kernel, machine=tmp_path).trusted
    with pytest.raises(ConfigError, match="trust: found 'never', expected 'auto' or 'always'"):
        GatewayClock("never")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hctosys", "since_epoch", "expected"),
    [("1", "1790000000", True), ("0", "1790000000", False), ("1", "12", False), ("?", "?", False)],
)
def test_a_hardware_clock_counts_where_the_system_was_set_from_it_and_it_had_a_time(
    tmp_path: Path, hctosys: str, since_epoch: str, expected: bool
) -> None:
    folder = tmp_path / "sys/class/rtc/rtc0"
    folder.mkdir(parents=True)
    (folder / "hctosys").write_text(f"{hctosys}\n")
    (folder / "since_epoch").write_text(f"{since_epoch}\n")
    assert has_own_time(tmp_path) is expected


def test_a_virtual_machine_has_the_time_of_its_host(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu vme sse2 hypervisor lahf_lm\n")
    assert has_own_time(tmp_path)
    (tmp_path / "proc/cpuinfo").write_text("Features\t: half thumb fastmult\n")
    assert not has_own_time(tmp_path)


def test_readings_wait_until_the_clock_is_trusted(
    clock: GatewayClock, kernel: Kernel, driver: ScriptedDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    central = ListStorage()
    gateway = Gateway(tmp_path / "x.db", "roof", clock=clock)
    assert isinstance(gateway.store, SQLiteStorage)
    gateway.add("mast", driver)
    gateway.forward_to("central", central)
    with caplog.at_level(logging.INFO, "edgedepot"), gateway:
        eventually(lambda: driver.is_through)
        assert gateway.store.ledger().upstreams["central"]["held"] == 1
        assert gateway.status()["clock"] == {"trusted": False}
        text = CliRunner().invoke(program, ["status", str(tmp_path / "x.db")]).stdout
        assert "Held back: 1 reading, until somebody knows the time." in text
        assert "Have it synchronised (NTP)" in text
        kernel.synchronised = True
        eventually(lambda: len(central.rows) == 1)
        assert gateway.status()["clock"] == {"trusted": True}
    assert "nobody knows yet whether the machine's clock is right" in caplog.text
    assert "trusted: the kernel says that it is synchronised" in caplog.text


def test_an_upstream_whose_clock_agrees_is_a_reason(
    clock: GatewayClock, driver: ScriptedDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    central = Central()
    gateway = Gateway(tmp_path / "x.db", "roof", clock=clock)
    gateway.add("mast", driver)
    gateway.forward_to("central", central)
    with caplog.at_level(logging.INFO, "edgedepot"), gateway:
        eventually(lambda: len(central.rows) == 1)
    assert "trusted: the clock of upstream central agrees" in caplog.text


def test_an_upstream_whose_clock_differs_is_none(
    clock: GatewayClock, driver: ScriptedDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    central = Central()
    central.ahead = timedelta(hours=1)
    gateway = Gateway(tmp_path / "x.db", "roof", clock=clock)
    gateway.add("mast", driver)
    gateway.forward_to("central", central)
    with gateway:
        eventually(lambda: "the machine's clock is 3600 s behind that of upstream central" in caplog.text)
        assert not clock.trusted
    assert central.rows == []


class QuickClock(GatewayClock):
    """Whoever waits on it need not wait."""

    elapsed = 0.0

    def monotonic(self) -> float:
        return self.elapsed

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        self.elapsed += timeout or 0.0
        return False


def test_upstreams_that_cost_are_asked_less_and_less_often(kernel: Kernel, tmp_path: Path) -> None:
    clock = QuickClock(synchronised=kernel, machine=tmp_path)
    asked: dict[str, list[float]] = {"cheap": [], "dear": []}

    class Asked(Central):
        ahead = timedelta(hours=1)

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def server_time(self) -> datetime | None:
            asked[self.name].append(clock.elapsed)
            kernel.synchronised = clock.elapsed >= 3 * 3600
            return super().server_time()

    known = threading.Event()
    watch = TrustWatch(clock, {name: Asked(name) for name in asked}, known.set, ["dear"])
    watch.start()
    assert known.wait(60)
    watch.stop()
    assert len(asked["cheap"]) == 3 * 120 + 1
    assert asked["dear"] == [0, 30, 90, 210, 450, 930, 1890, 3810, 7410]


def test_a_gateway_uses_the_clock_of_its_store(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "x.db", gateway_id="roof") as store:
        assert Gateway(store).status()["clock"] == {"trusted": True}


TOML = """
[gateway]
id = "roof"

[storage]
path = "x.db"

[clock]
trust = {}
"""


def test_the_file_says_whether_to_trust(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(TOML.format('"always"'))
    gateway = load(file).build()
    try:
        assert gateway.status()["clock"] == {"trusted": True}
    finally:
        gateway.stop()


def test_commands_trust_the_clock_as_the_gateway_would(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(TOML.format('"always"'))
    store = open_store_to_write(file, create=True)
    assert isinstance(store.clock, GatewayClock)
    assert store.clock.reason == "set up so"
    store.close()
    with open_store_to_write(tmp_path / "x.db", create=False) as store:
        assert isinstance(store.clock, GatewayClock)


def test_the_file_cannot_say_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(TOML.format('"maybe"'))
    assert 'clock.trust: found "maybe", expected "auto" or "always"' in complaint("run", file)
