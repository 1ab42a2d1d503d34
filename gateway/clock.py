"""Whether the machine knows the time: a Pi has no clock that runs without power.

The wall time is trusted when one of these holds, and from then on:

    the kernel says that it is synchronised (chrony, systemd-timesyncd and ntpd tell it)
    there is a battery-backed clock that the system was set from, or the machine is a virtual one, set by its host
    an upstream's own clock agrees within 5 s
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import EARLIEST, Clock, SystemClock, to_micros
from edgedepot.storage.errors import ConfigError, StorageError

log = logging.getLogger(__name__)
AGREEMENT = 5_000_000
"""Microseconds by which an upstream's clock may differ."""
LOOK_SECONDS = 1.0
ASK_SECONDS = 30.0
LONGEST_PAUSE = 3600.0
"""Seconds at most between questions to an upstream whose bytes or hours are limited; each is twice the one before."""
_UNSYNCHRONISED = 0x40  # STA_UNSYNC in <sys/timex.h>
Trust = Literal["auto", "always"]


class _Timex(ctypes.Structure):
    """The front of ``struct timex``, see adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def kernel_says_synchronised() -> bool:
    """What adjtimex(2) says; False where there is no such call."""
    ask = getattr(ctypes.CDLL(None), "adjtimex", None)
    found = _Timex()
    return ask is not None and ask(ctypes.byref(found)) >= 0 and not found.status & _UNSYNCHRONISED


class GatewayClock(SystemClock):
    """The system's clock, trusted once there is a reason. `trust` "always" needs none; `synchronised` asks the kernel,
    and `machine` is where Linux tells of its clocks. All methods may be called from any thread."""

    def __init__(
        self,
        trust: Trust = "auto",
        synchronised: Callable[[], bool] = kernel_says_synchronised,
        machine: Path = Path("/"),
    ) -> None:
        if trust not in ("auto", "always"):
            raise ConfigError(f"trust: found {trust!r}, expected 'auto' or 'always'")
        self._reason: str | None = "set up so" if trust == "always" else None
        self._synchronised = synchronised
        self._machine = machine
        self.look()

    @property
    def trusted(self) -> bool:  # type: ignore[override]  # the system's always is
        return self._reason is not None

    def look(self) -> bool:
        """Look whether there is a reason by now."""
        if self._reason is None and self._synchronised():
            self._reason = "the kernel says that it is synchronised"
        if self._reason is None and has_own_time(self._machine):
            self._reason = "the machine has a clock of its own"
        return self._reason is not None

    def compare(self, name: str, theirs: int) -> int:
        """Take an upstream's time, in microseconds since 1970 UTC; by how much the machine's clock is ahead of it."""
        ahead = self.now() - theirs
        if self._reason is None and abs(ahead) <= AGREEMENT:
            self._reason = f"the clock of upstream {name} agrees"
        return ahead

    @property
    def reason(self) -> str | None:
        """Why the time is trusted."""
        return self._reason


def has_own_time(machine: Path) -> bool:
    """Whether Linux set its clock from a battery-backed one that had a time, or the machine is a virtual one."""
    for folder in (machine / "sys/class/rtc").glob("rtc*"):
        with suppress(OSError, ValueError):
            was_used = (folder / "hctosys").read_text("ascii").strip() == "1"
            if was_used and int((folder / "since_epoch").read_text("ascii")) * 1_000_000 >= EARLIEST:
                return True
    with suppress(OSError):
        return " hypervisor" in (machine / "proc/cpuinfo").read_text("ascii", "replace")
    return False


class TrustWatch:
    """A thread that looks for a reason to trust the clock until there is one, and then says so.

    `on_trust` is called from it. Upstreams are asked for their time: those in `sparing` less and less often, for that
    may be out of their hours, which nobody knows yet.
    """

    def __init__(
        self,
        clock: GatewayClock,
        upstreams: Mapping[str, BaseStorage],
        on_trust: Callable[[], None],
        sparing: Collection[str] = (),
    ) -> None:
        self._clock = clock
        self._upstreams = upstreams
        self._sparing = sparing
        self._pauses = dict.fromkeys(upstreams, ASK_SECONDS)
        self._ask_at = dict.fromkeys(upstreams, clock.monotonic())
        self._on_trust = on_trust
        self._condition = threading.Condition()
        self._stopping = False
        self._off: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="edgedepot-clock", daemon=True)

    def start(self) -> None:
        """Start looking; returns at once."""
        log.warning(
            "nobody knows yet whether the machine's clock is right: readings are stored, but not forwarded until the"
            ' time is synchronised (or [clock] trust = "always")'
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. An upstream that is asked for its time just then is not waited for."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._clock.look():
            self._ask_upstreams()
            with self._condition:
                if self._stopping:
                    return
                if not self._clock.trusted:
                    self._clock.wait(self._condition, LOOK_SECONDS)
        log.info("the machine's clock is trusted: %s", self._clock.reason)
        with suppress(StorageError):
            self._on_trust()

    def _ask_upstreams(self) -> None:
        for name, storage in self._upstreams.items():
            if self._clock.monotonic() < self._ask_at[name]:
                continue
            self._ask_at[name] = self._clock.monotonic() + self._pauses[name]
            if name in self._sparing:
                self._pauses[name] = min(2 * self._pauses[name], LONGEST_PAUSE)
            with suppress(StorageError):
                theirs = storage.server_time()
                if theirs is None:
                    continue
                ahead = self._clock.compare(name, to_micros(theirs))
                if abs(ahead) > AGREEMENT and name not in self._off:
                    self._off[name] = ahead
                    log.warning(
                        "the machine's clock is %.0f s %s that of upstream %s",
                        abs(ahead) / 1e6, "ahead of" if ahead > 0 else "behind", name,
                    )  # fmt: skip


def watch_of(
    clock: Clock, upstreams: Mapping[str, BaseStorage], on_trust: Callable[[], None], sparing: Collection[str] = ()
) -> TrustWatch | None:
    """What looks for a reason to trust a gateway's clock; None where there is one, or the clock finds out itself."""
    if isinstance(clock, GatewayClock) and not clock.trusted:
        return TrustWatch(clock, upstreams, on_trust, sparing)
    return None
