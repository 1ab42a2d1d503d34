"""What a gateway will need, worked out from its load: room on the disk, bytes on the wire, writes to the card, time.

All figures are estimates within some 10 %, for readings of float fields with two decimals. Each constant says where it
comes from. What the load itself looks like decides more: names of devices, texts, how well values compress.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgedepot.storage.sqlite.limits import REST, Limits

Kind = Literal["timescale", "influxdb"]
DAY = 86_400.0
MONTH = 30 * DAY
BATCH = 5_000
"""Readings of a request while a backlog drains: `SyncWorker`'s batch_size."""

# Bytes of a store's file for each reading that is still pending for an upstream, so in the journal and in history:
# the slope from 3 to 9 hours of 4 readings a second, with 1, 4 and 8 fields (61, 118 and 197 bytes);
# tests/plan/test_plan.py measures the same.
STORE_EACH, STORE_FIELD = 42.3, 19.3
STORE_COMMIT = 64.0  # and for each commit, whose books are a row
# Of these the journal has: from 3 to 6 hours of the same (30, 58 and 96 bytes; 67 of 4 fields in commits of 4).
JOURNAL_EACH, JOURNAL_FIELD, JOURNAL_COMMIT = 19.8, 9.4, 45.0
# Bytes that reach the card, of 4 fields, fitted to seven loads (see docs/benchmarks.md, within 7 %): what each reading
# takes, what a commit does, which dirties less than twice the pages with twice the rows, and what a second has of the
# fold every ten minutes, however few rows that has.
CARD_EACH, CARD_COMMIT, CARD_ROOT, CARD_FOLD, CARD_FIELDS = 196.0, 6_450.0, 1_804.0, 546.0, 4
# Bytes on the wire both ways without TLS, of a request and of each reading in it: measured by `wire_bytes` over 40
# requests each of 4 to 2,000 readings with 1, 4 and 8 fields; InfluxDB with gzip and a token of 88 characters.
WIRE: dict[Kind, tuple[float, float, float, float]] = {
    "timescale": (625.0, 50.0, 62.5, 12.0),
    "influxdb": (570.0, 1.5, 4.6, 4.6),
}
AVERAGE_FIELD: dict[Kind, float] = {"timescale": 0.0, "influxdb": 1.5}
"""What a field of an average takes more, as it has more digits: measured over an hour of averages of a minute."""
CARD_TBW = 16.0
"""Terabytes: a 32 GB card of 512 program and erase cycles, as of surveillance cards such as WD Purple SC QD101 (512 TB
for its 1 TB). Ordinary cards state nothing and may take far less; look for yours."""
FASTEST = 50_000.0
"""Readings a second that sync drains at most, whatever the link: about half of what TimescaleDB takes on the machine of
docs/benchmarks.md, writing again."""


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` in readings a second, each with so many `fields`; `flush` in seconds between commits; `disk` and `link`
    (a second) in bytes; `tbw` in terabytes; `outage` in hours. `keeps`: `disk` is the store's `keep_bytes`, so that
    history goes when it is reached.

    What an upstream gets: `share` of the readings, or of each of so many `series` only averages over `every` seconds;
    so many bytes `per_day` at most, `batch` readings of a backlog at a time, while it is `open`: a share of the day."""

    rate: float
    fields: float
    flush: float = 1.0
    upstream: Kind = "timescale"
    disk: float = 2e9
    link: float = 1e6
    tbw: float = CARD_TBW
    outage: float = 24.0
    share: float = 1.0
    series: int = 1
    every: float | None = None
    per_day: float | None = None
    batch: int = BATCH
    open: float = 1.0
    keeps: bool = True

    @property
    def room(self) -> float:
        """The bytes of the disk that readings may have."""
        return Limits(sizes={REST: int(self.disk)}).room() if self.keeps else self.disk

    @property
    def commits(self) -> float:
        """A second."""
        return min(1 / self.flush, self.rate)

    @property
    def taken(self) -> float:
        """Readings a second that are the upstream's."""
        return self.rate * self.share

    @property
    def sent(self) -> float:
        """Readings or averages a second that go out."""
        return self.taken if self.every is None else min(self.taken, self.series / self.every)

    @property
    def requests(self) -> float:
        """A second, while it keeps up."""
        return min(self.commits, self.taken) if self.every is None else min(self.commits, 1 / self.every)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load comes to."""

    readings_per_second: float
    store_bytes_per_reading: float
    outage_hours: float
    """Of an outage that the disk holds: then the oldest readings that an upstream awaits are thinned; without a limit
    the disk is full, and none are taken."""
    history_hours: float
    """Until the oldest of them go from history, though they wait still."""
    wire_bytes_per_month: float
    card_bytes_per_day: float
    card_share_per_year: float
    """Of the card's rated writes; 1 is all of them."""
    outage_asked: float
    catch_up_seconds: float | None
    """After an outage of so many hours; None where the link carries less than comes in."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(load: Load) -> Plan:
    """What that load comes to. `rate`, `fields` and the others are more than zero."""
    each = STORE_EACH + STORE_FIELD * load.fields + STORE_COMMIT * load.commits / load.rate
    waiting = JOURNAL_EACH + JOURNAL_FIELD * load.fields + JOURNAL_COMMIT * load.commits / load.rate
    wire = wire_rate(load)
    shape = (STORE_EACH + STORE_FIELD * load.fields) / (STORE_EACH + STORE_FIELD * CARD_FIELDS)
    rows = load.rate / load.commits
    card = DAY * (load.rate * (CARD_EACH * shape + CARD_COMMIT / rows + CARD_ROOT / rows**0.5) + CARD_FOLD)
    return Plan(
        load.rate,
        each,
        load.room / ((waiting if load.keeps else each) * load.rate) / 3600,
        load.room / (each * load.rate) / 3600,
        MONTH * wire,
        card,
        card * 365 / (load.tbw * 1e12),
        load.outage,
        _catch_up(load, wire),
    )


def wire_rate(load: Load) -> float:
    """Bytes a second while it keeps up: a request for each commit, or for each interval's averages."""
    fixed, fixed_field, each, each_field = _wire(load)
    return (fixed + fixed_field * load.fields) * load.requests + (each + each_field * load.fields) * load.sent


def _wire(load: Load) -> tuple[float, float, float, float]:
    fixed, fixed_field, each, each_field = WIRE[load.upstream]
    return fixed, fixed_field, each, each_field + (AVERAGE_FIELD[load.upstream] if load.every else 0.0)


def _catch_up(load: Load, wire: float) -> float | None:
    fixed, fixed_field, each, each_field = _wire(load)
    ratio = load.sent / load.taken
    one = each + each_field * load.fields + (fixed + fixed_field * load.fields) / max(1.0, load.batch * ratio)
    limit = min(load.link * load.open, load.per_day / DAY if load.per_day else load.link)
    pace = min((limit - wire) / one, FASTEST * load.open * ratio - load.sent)
    return load.outage * 3600 * load.sent / pace if pace > 0 else None
