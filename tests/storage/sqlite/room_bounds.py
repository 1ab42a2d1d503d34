"""What a store with limits may hold at most, and what it may let go for that."""

from collections.abc import Iterable
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from edgedepot.storage.clock import DAY, ManualClock, to_micros
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.sqlite.limits import Limits
from tests.storage.sqlite.room_model import File, Upstream, Version
from tests.storage.sqlite.states import Key

LIMIT, AT_ONCE = 1_000_000, 800_000
"""Bytes that a store may hold, where that is limited; and that what is stored at once takes, with its copy in history
(where a row that large has a page of its own)."""
PERIOD = 30 * DAY


class RoomBounds(RuleBasedStateMachine):
    """The part of `Room` that knows its limits."""

    limits: dict[str, Any]
    clock: ManualClock
    file: File
    rows: dict[Key, Version]
    journal: set[Version]
    upstreams: dict[str, Upstream]
    largest: int
    """How large the file and its log may be: as large as they were before there was a limit."""

    @property
    def may_evict(self) -> bool:
        return "keep_bytes" in self.limits and self.limits.get("when_full") != "block"

    @property
    def may_lose_pending(self) -> bool:
        """Whether what upstreams await may go for its age."""
        return "keep" in self.limits and not self.limits.get("keep_pending", True)

    @property
    def size(self) -> int | None:
        """What the whole store may hold."""
        return LIMIT if isinstance(self.limits.get("keep_bytes"), str) else None

    def first_kept(self, measurement: str) -> int | None:
        """From when on a model's readings are young enough, in microseconds since 1970 UTC; None where all are."""
        keep = self.limits.get("keep")
        age = keep.get(measurement) if isinstance(keep, dict) else keep
        return None if age is None else self.clock.now() - round(seconds_of(age, "keep") * 1e6)

    # -- after every step ---------------------------------------------------------------------------------------------

    def check_size(self) -> None:
        """What is too much is gone: only what may not go is left of it. The file with its log never was much larger."""
        awaited = self.limits.get("when_full") == "block" and any(one.is_waiting for one in self.upstreams.values())
        has_leave = awaited or any(map(self.begins_in_the_future, self.file.partitions))
        if self.size is not None:
            room = Limits.of(None, self.size, "evict", keep_pending=True).room()
            assert self.file.used_bytes <= room or has_leave, (self.file.used_bytes, room)
        elif "keep_bytes" in self.limits:
            for name in self.limits["keep_bytes"]:
                taken = self.file.history_bytes.get(name, 0)
                assert taken <= LIMIT or awaited or self.begins_in_the_future(name), taken
        if self.size is None or has_leave:
            self.largest = max(self.largest, self.file.bytes)
        assert self.file.bytes <= self.largest + 2 * AT_ONCE, (self.file.bytes, self.largest)

    def begins_in_the_future(self, name: str) -> bool:
        """Whether a model's oldest partition has a reading of a time that has not come; the later ones wait for it."""
        times = self._times_of_oldest(name, [one for one in self.rows.values() if self.file.is_folded(one)])
        return self.clock.trusted and any(ts >= self.clock.now() for ts in times)

    def _times_of_oldest(self, name: str, versions: Iterable[Version]) -> list[int]:
        """When the readings are from that lie in a model's oldest partition."""
        start, stop = next(iter(self.file.partitions.get(name, [])), (0, 0))
        mine = (to_micros(one.key[1]) for one in versions if one.key[0].measurement == name)
        return [ts for ts in mine if start <= ts < stop]

    def check_age(self) -> None:
        """What is too old is gone, but for what may not go."""
        if not self.clock.trusted:
            return
        walks = {one for upstream in self.upstreams.values() for one in upstream.walk if upstream.takes(one)}
        for name, partitions in self.file.partitions.items():
            first = self.first_kept(name)
            is_owed = not self.may_lose_pending and self._times_of_oldest(name, walks)
            if first is not None and partitions and not is_owed:
                assert partitions[0][1] > first
                assert partitions[0][0] > first - PERIOD
        if self.may_lose_pending and self.file.closed:
            piece = min(self.file.closed)
            assert any(self._is_young(version) for version in self.journal if version.piece == piece)

    def _is_young(self, version: Version) -> bool:
        first = self.first_kept(version.key[0].measurement)
        return first is None or version.micros >= first
