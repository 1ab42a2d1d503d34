"""What a store should make of readings that came before anybody knew the time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from edgedepot.storage.clock import EARLIEST, ManualClock, from_micros
from edgedepot.storage.values import Quality
from tests.storage.sqlite.crashing import Offsets
from tests.storage.sqlite.states import MICROSECOND, SLEWED, Key, Series

DAY = timedelta(days=1)
FIRST = from_micros(EARLIEST)
SLIGHT = timedelta(milliseconds=1)
"""Stamps in each other's way move by less."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def boot_time(clock: ManualClock) -> datetime:
    """When this boot began, by the wall clock as it is set now."""
    return from_micros(clock.now()) - timedelta(seconds=clock.monotonic())


@dataclass(slots=True)
class Held:
    """One held reading. `began` is when the boot began by the clock that it came by, as that was set; `came` is when a
    device's reading came, None where code gave the time; a `stamp` is the gateway's own."""

    boot: str
    began: datetime
    stamp: bool
    came: datetime | None


@dataclass(slots=True)
class Boot:
    """A boot in which nobody knew the time yet. `began` is by its first clock; it ended before `before`, which is known
    once the clock is trusted after it, in the boot `successor`."""

    began: datetime
    before: datetime | None = None
    successor: str = ""


class HeldRows:
    """The held readings by number of arrival, and the boots they are of, in order."""

    def __init__(self) -> None:
        self.rows: dict[int, Held] = {}
        self.boots: dict[str, Boot] = {}
        self.flags: dict[int, int] = {}
        """What is known against the times of readings, also of released ones."""
        self._base: tuple[str, datetime] = "", LONG_AGO  # the latest boot, and when it began by the clock as it was set
        self._seen: datetime | None = None  # the same, by the clock that this process has seen set
        self._was_trusted = True

    def restarted(self) -> None:
        """Another process has the store."""
        self._seen = None

    def arrive(self, number: int, clock: ManualClock, stamp: bool, came: datetime | None) -> None:
        if not clock.trusted:
            assert self._base[0] == clock.boot
            self.rows[number] = Held(*self._base, stamp, came)

    @staticmethod
    def put_right(moment: datetime, moved: timedelta | None, clock: ManualClock) -> datetime:
        """A time by the clock just before it moved, as it would have been said after."""
        now = from_micros(clock.now())
        if moved is None or abs(now - moment) <= abs(now - moved - moment):
            return moment
        return moment + moved

    def merge(self, old: int, new: int) -> None:
        """One version takes the other's place."""
        self.rows.pop(old, None)
        self.flags[new] = self.flags.get(new, 0) | self.flags.get(old, 0)

    def gives_way(self, number: int) -> bool:
        """Whether a reading is no identity yet."""
        return number in self.rows and self.rows[number].stamp

    def look(self, clock: ManualClock) -> timedelta | None:
        """The store has looked at the clock. By how much that was set, None where it was not, or only slewed; nothing
        where what it said before is believed."""
        began = boot_time(clock)
        moved = None if self._seen is None or abs(began - self._seen) <= SLEWED else began - self._seen
        if moved is not None and self._was_trusted:
            moved = timedelta(0)
        if moved is not None or self._seen is None:
            self._seen = began
        self._was_trusted = clock.trusted
        self._note_boot(clock, began)
        return moved

    def _note_boot(self, clock: ManualClock, began: datetime) -> None:
        if not clock.trusted:
            if self._base[0] != clock.boot or abs(began - self._base[1]) > SLEWED:
                self._base = clock.boot, began
            self.boots.setdefault(clock.boot, Boot(began))
            return
        for name, boot in self.boots.items():
            if boot.before is None and name != clock.boot:
                boot.before, boot.successor = boot_time(clock), clock.boot

    def due(self, clock: ManualClock, estimate: bool) -> list[str]:
        """The boots whose readings the next transaction releases."""
        return [name for name in self.boots if clock.trusted and (estimate or name == clock.boot)]

    def release(
        self, boots: Collection[str], offsets: Offsets, rows: dict[Key, int], clock: ManualClock
    ) -> list[tuple[Key, datetime]]:
        """Where readings go when boots are released: stamps move with the clock, as do those that replace a device's
        impossible time, and on where another reading is in the way. Of boots that ended the store says by how much."""
        self._offsets = offsets
        wanted: list[tuple[datetime, int, Key]] = []
        for key, number in rows.items():
            if number in self.rows and self.rows[number].boot in boots:
                moment = self._settle(number, key[1], clock)
                if moment is not None:
                    wanted.append((moment, number, key))
        self._check_order(boots, wanted)
        fixed = set(rows) - {key for _, _, key in wanted}
        last: dict[Series, datetime] = {}
        moves: list[tuple[Key, datetime]] = []
        for wish, _, key in sorted(wanted, key=lambda one: one[:2]):
            moment = max(wish, last.get(key[0], LONG_AGO) + MICROSECOND)
            while (key[0], moment) in fixed:
                moment += MICROSECOND
            last[key[0]] = moment
            moves.append((key, moment))
        self.rows = {number: held for number, held in self.rows.items() if held.boot not in boots}
        for name in boots:
            del self.boots[name]
        return moves

    def _settle(self, number: int, moment: datetime, clock: ManualClock) -> datetime | None:
        """A held reading's time if it was the gateway's clock that said it; None for one that stays as it is."""
        held = self.rows[number]
        ended = held.boot != clock.boot
        shift = self._shift(held, clock)
        if ended:
            self.flags[number] = self.flags.get(number, 0) | Quality.TIME_UNCERTAIN
        if held.stamp:
            return moment + shift
        if held.came is None:
            return None
        latest = (boot_time(clock) if ended else held.came + shift) + DAY
        if from_micros(EARLIEST) <= moment <= latest:
            return None
        self.flags[number] = self.flags.get(number, 0) | Quality.TIME_REPLACED
        return held.came + shift

    def _shift(self, held: Held, clock: ManualClock) -> timedelta:
        """What has to be added to a time by the clock that a reading came by."""
        if held.boot == clock.boot:
            return boot_time(clock) - held.began
        return self._offsets[held.boot] + self.boots[held.boot].began - held.began

    def _check_order(self, boots: Collection[str], stamps: list[tuple[datetime, int, Key]]) -> None:
        """Boots that ended lie one after the other, and before the one after them that knew the time."""
        end = latest = LONG_AGO
        for (before, _), names in groupby(boots, lambda name: (self.boots[name].before, self.boots[name].successor)):
            times = [[wish for wish, number, _ in stamps if self.rows[number].boot == name] for name in names]
            spans = [(min(some), max(some)) for some in times if some]
            if before is None or not spans:
                continue
            fits = latest <= before - sum((high - low for low, high in spans), timedelta(0))
            if not fits:  # the time that was trusted went back, or on by less than they took, and tells nothing
                end = LONG_AGO
            for low, high in spans:
                assert end < low + SLIGHT, "boots overlap"
                end = high
            assert end < before + SLIGHT, "a boot lies after one that it came before"
            latest = before
