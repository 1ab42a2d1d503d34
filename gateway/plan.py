"""What a gateway will need, worked out from its load: room on the disk, bytes on the wire, writes to the card, time.

All figures are estimates. Each constant says where it comes from: what was fitted was so to loads that were drawn at
random, and holds for others that were not used for it (docs/plan.md has both). How well values compress, and how
long the names of devices are, changes more than that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from edgedepot.storage.sqlite.limits import PAGE, REST, Limits
from edgedepot.sync.budget import MARGIN, for_backlog, piece_of
from edgedepot.sync.cost import size_with
from edgedepot.sync.flow import BURST, in_a_minute

Kind = Literal["timescale", "influxdb"]
DAY = 86_400.0
MONTH = 30 * DAY
BATCH = 5_000
"""Readings of a request while a backlog drains: `SyncWorker`'s batch_size."""


class Bytes(NamedTuple):
    """Of a reading, beside its fields; and of fields of each type, of texts beside their letters; of a field that the
    reading lacks."""

    reading: float
    float_: float
    int_: float
    bool_: float
    text: float
    letter: float
    null: float

    def of(self, load: Load) -> float:
        """Of a reading of that load."""
        return (
            self.reading
            + self.float_ * load.floats
            + self.int_ * load.ints
            + self.bool_ * load.bools
            + self.text * load.texts
            + self.letter * load.letters
            + self.null * load.nulls
        )


# Bytes of a store's file for each reading that is still pending for an upstream, so in the journal and in history, and
# for each commit, whose books are a row: fitted to seeds 1 to 24 of tests/plan, 40,000 readings or 2 hours each.
STORE, STORE_COMMIT = Bytes(43.0, 20.0, 6.5, 2.2, 0.6, 2.27, 2.2), 40.0
# A field that a reading lacks takes what a bool takes there, and its length in COPY.
# The hours of history have a row for each device: as SQLite writes it, and by what the same fit says of how full pages
# are.
HOURS, HOURS_FILL = Bytes(45.0, 65.0, 39.0, 22.0, 22.0, 2.0, 0.0), 1.37
# Of these the journal has, as SQLite writes its rows; the pages are all but full.
JOURNAL, JOURNAL_COMMIT = Bytes(19.8, 9.4, 3.1, 1.0, 1.0, 1.04, 1.0), 45.0
# A row of what is kept downsampled, as SQLite writes it, and a column of it: of how many values there were, of when, or
# by its field's type; and by how full the pages of such tables were, of six rules: within 4 %.
KEPT, KEPT_COUNT, KEPT_TIME, KEPT_FILL = 44.0, 2.0, 9.0, 1.16
KEPT_VALUE: Mapping[type, float] = {float: 9.0, int: 3.0, bool: 1.0, str: 13.0}
# Bytes that reach the card: what each commit does, whatever is in it; of the pages that its rows fill in the journal,
# the root, as it dirties less than twice the pages with twice the rows; what each device takes that a fold has rows of,
# which is some pages of its own, and less for each further part of a fold; and what a reading comes to that is in the
# store in the end. Fitted to the seven loads of docs/benchmarks.md, which count four times, and to seeds 1 to 24.
CARD_COMMIT, CARD_PAGES, CARD_FOLDED, CARD_PART, CARD_STORED = 6_450.0, 15_000.0, 19_000.0, 2_700.0, 1.47
FLUSH = 1.0
"""Seconds between commits, where nothing is said of them."""
FOLD, PART = 600.0, 3_000
"""Seconds between folds; readings of a part of one."""


class Wire(NamedTuple):
    """Bytes both ways: of a request, for each field and each device that it names, and of each reading."""

    request: float
    field: float
    device: float
    reading: Bytes
    records: int
    """What a request and its answers are cut into by TLS, if they are small."""
    idle: float
    """Seconds after which the server closes a connection that nobody uses."""


# TimescaleDB: what COPY says of values, the rest fitted to the same seeds, 60 commits each. InfluxDB, with gzip and a
# token of 88 characters: fitted to seeds 1 to 30 and 101 to 130.
WIRE: Mapping[Kind, Wire] = {
    "timescale": Wire(625.0, 50.0, 0.0, Bytes(62.7, 12.0, 12.0, 5.0, 4.0, 1.0, 4.0), 8, math.inf),
    "influxdb": Wire(562.5, 2.0, 5.4, Bytes(3.1, 4.54, 4.54, 1.5, 2.6, 0.79, 0.0), 3, 180.0),
}
RECORD, HANDSHAKE = 22.0, 3_000.0
"""Bytes: what TLS 1.3 adds to a record (RFC 8446, 5.2), as the same seeds show; large requests have one more for each 8
to 16 kB. And to a connection: 1,600 to 3,100 were measured, by the server's certificates."""
CONNECTING: Mapping[bool, float] = {False: 5_000.0, True: 10_000.0}
"""Bytes: what a new connection may take, with TLS or without, which a link that is slow leaves of every minute."""
NAME = 11.0
"""Letters that a device's name may have, or a field's with the 4 that sync adds: they count for what goes at once at a
rate."""
AVERAGE_FLOAT: Mapping[Kind, float] = {"timescale": 0.0, "influxdb": 1.5}
"""What a float of an average takes more, as it has more digits: measured over an hour of averages of a minute."""
CARD_TBW = 16.0
"""Terabytes: a 32 GB card of 512 program and erase cycles, as of surveillance cards such as WD Purple SC QD101 (512 TB
for its 1 TB). Ordinary cards state nothing and may take far less; look for yours."""
FASTEST = 50_000.0
"""Readings a second that sync drains at most, whatever the link: about half of what TimescaleDB takes on the machine of
docs/benchmarks.md, writing again."""


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` in readings a second, each with so many `fields`, of which some are `ints`, `bools` and `texts` of
    `letters` in all, and without so many `nulls` that others of its model have; from so many `devices`, of so many
    `models`. `flush` in seconds between commits; `committed` a second at most, as readings may come together; `disk`
    and `link` (a second) in bytes; `tbw` in terabytes; `outage` in hours. `keeps`: `disk` is the store's `keep_bytes`,
    so that history goes when it is reached, and then what waits is thinned, or no more is taken where it `blocks`.
    History also goes at an `age` in seconds, and what waits with it where it `loses` that. So many bytes are `kept`
    downsampled of what went, in the end; inf where that never ends.

    What an upstream gets: `share` of the readings, or of each of so many `series` only averages over `every` seconds;
    so many bytes `per_day` at most, `batch` readings of a backlog at a time, while it is `open`: a share of the day;
    with `tls` or without. `parts`: how many commits a second have some for it, of each model; without it they are of
    all models, as many as there can be."""

    rate: float
    fields: float
    flush: float = FLUSH
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
    blocks: bool = False
    age: float | None = None
    loses: bool = False
    ints: float = 0.0
    bools: float = 0.0
    texts: float = 0.0
    letters: float = 0.0
    devices: int = 1
    models: int = 1
    tls: bool = False
    nulls: float = 0.0
    committed: float = math.inf
    parts: tuple[float, ...] = ()
    kept: float = 0.0

    @property
    def floats(self) -> float:
        return self.fields - self.ints - self.bools - self.texts

    @property
    def room(self) -> float:
        """The bytes of the disk that readings may have."""
        return Limits(sizes={REST: int(self.disk)}).room() if self.keeps else self.disk

    @property
    def commits(self) -> float:
        """A second."""
        return min(1 / self.flush, self.rate, self.committed)

    @property
    def columns(self) -> float:
        """Fields that readings have between them."""
        return self.fields + self.nulls

    @property
    def taken(self) -> float:
        """Readings a second that are the upstream's."""
        return self.rate * self.share

    @property
    def sent(self) -> float:
        """Readings or averages a second that go out."""
        return self.taken if self.every is None else min(self.taken, self.series / self.every)

    @property
    def windows(self) -> float:
        """A second, while it keeps up: what goes out at a time."""
        together = sum(self.parts) if self.parts else math.inf
        return min(self.commits, together, self.taken, math.inf if self.every is None else 1 / self.every)

    @property
    def requests(self) -> float:
        """A second, while it keeps up: one for each model in a window."""
        if self.parts:
            return sum(min(self.windows, part) for part in self.parts)
        return self.windows * min(self.models, max(1.0, self.sent / self.windows))


@dataclass(frozen=True, slots=True)
class Way:
    """What a load comes to on the way to one upstream."""

    tls: bool
    """Whether that is counted."""
    wire_bytes_per_month: float
    catch_up_seconds: float | None
    """After the outage that was asked for; None where the link carries less than comes in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load comes to."""

    readings_per_second: float
    store_bytes_per_reading: float
    outage_hours: float
    """Of an outage that the disk holds: then the oldest readings that an upstream awaits are thinned; without a limit
    the disk is full, and none are taken; or they go for their age."""
    history_hours: float
    """Until the oldest of them go from history, though they wait still."""
    wire_bytes_per_month: float
    """To all upstreams together."""
    card_bytes_per_day: float
    card_share_per_year: float
    """Of the card's rated writes; 1 is all of them."""
    outage_asked: float
    catch_up_seconds: float | None
    """After an outage of so many hours, of the upstream that takes longest; None where one never does."""
    upstreams: Mapping[str, Way]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(load: Load, sent: Mapping[str, Load] | None = None) -> Plan:
    """What that load comes to. `rate`, `fields` and the others are more than zero. `sent`: for each upstream the load
    with its settings, and with the fields of what it gets; without it there is one, which gets all."""
    outage, history = _times(load)
    card = DAY * card_rate(load)
    ways = {name: _way(one) for name, one in (sent or {load.upstream: load}).items()}
    later = [way.catch_up_seconds for way in ways.values() if way.catch_up_seconds is not None]
    return Plan(
        load.rate,
        store_bytes(load),
        outage / 3600,
        history / 3600,
        sum(way.wire_bytes_per_month for way in ways.values()),
        card,
        card * 365 / (load.tbw * 1e12),
        load.outage,
        max(later) if len(later) == len(ways) else None,
        ways,
    )


def _times(load: Load) -> tuple[float, float]:
    """Seconds of an outage that the disk holds, and until the first history of it goes."""
    each = store_bytes(load)
    waiting = JOURNAL.of(load) + JOURNAL_COMMIT * load.commits / load.rate
    age = math.inf if load.age is None else load.age
    history = min(age, _history(load, each, waiting))
    stays = 0.0 if load.keeps else (each - waiting) * load.rate * history
    outage = max(0.0, load.room - stays) / (waiting * load.rate)
    return min(outage, age) if load.loses else outage, history


def _history(load: Load, each: float, waiting: float) -> float:
    """Seconds that the room holds of readings with their history, each of so many bytes, of which some are those of the
    journal."""
    room = max(0.0, load.room)
    if not load.keeps or not load.kept:
        return room / (each * load.rate)
    return max((room - load.kept) / each, _beside_as_much(load, room, each - waiting)) / load.rate


def _beside_as_much(load: Load, room: float, history: float) -> float:
    """Readings with their history, of so many bytes each, where what is kept downsampled has as much as history. Not
    all of the room is theirs, on average: history goes by parts, which are as much larger as half a fold has, and half
    a piece of the journal is not gone yet, though an upstream has it all. In a small store that is much."""
    limits = Limits(sizes={REST: int(load.disk)})
    part = PAGE * limits.largest(REST, 0)
    fold = history * min(FOLD * load.rate, limits.fold_rows)
    return max(0.0, room - 1.5 * part - fold / 2) / (store_bytes(load) + history)


def kept_bytes(columns: Sequence[tuple[str, type]]) -> float:
    """Of a row that is kept downsampled, with so many columns: of what part of what type of field each is."""
    parts = [
        KEPT_COUNT if part == "n" else KEPT_TIME if part.endswith("_ts") else KEPT_VALUE[kind] for part, kind in columns
    ]
    return KEPT_FILL * (KEPT + sum(parts))


def _way(sent: Load) -> Way:
    wire = wire_rate(sent)
    return Way(sent.tls, MONTH * wire, _catch_up(sent, wire))


def store_bytes(load: Load) -> float:
    """Of the store's file, for each reading."""
    hours = min(1.0, load.devices / 3600 / load.rate)
    each = HOURS_FILL * HOURS.of(_gathered(load, 1 / hours)) * hours
    return STORE.of(load) + STORE_COMMIT * load.commits / load.rate + each


def _gathered(load: Load, readings: float) -> Load:
    """The same where so many readings of a device are one: it has all the fields that these have between them."""
    more = min(load.columns / load.fields, readings)
    names = ("fields", "ints", "bools", "texts", "letters")
    counts = {name: getattr(load, name) * more for name in names}
    return replace(load, **counts, nulls=load.columns - counts["fields"])


def card_rate(load: Load) -> float:
    """Bytes a second that reach the card."""
    pages = JOURNAL.of(load) * load.rate / load.commits / PAGE
    folded = min(load.devices / FOLD, load.rate)
    parts = min(load.devices * max(1 / FOLD, load.rate / PART), load.rate)
    commits = load.commits * (CARD_COMMIT + CARD_PAGES * math.sqrt(pages))
    devices = CARD_FOLDED * folded + CARD_PART * (parts - folded)
    return commits + devices + CARD_STORED * store_bytes(load) * load.rate


def wire_rate(load: Load) -> float:
    """Bytes a second while it keeps up: a request for each commit and model, or for each interval's averages."""
    request, each = _wire(load)
    connecting = HANDSHAKE if load.tls and 1 / load.windows > WIRE[load.upstream].idle else 0.0
    return request * load.requests + each * load.sent + connecting * load.windows


def _wire(load: Load) -> tuple[float, float]:
    """Bytes of a request, and of each reading in it."""
    wire, load = WIRE[load.upstream], _outgoing(load)
    named = min(load.sent / load.requests, load.series / load.models)
    more = AVERAGE_FLOAT[load.upstream] * load.floats if load.every else 0.0
    request = (
        wire.request + wire.field * load.columns + wire.device * named + (RECORD * wire.records if load.tls else 0)
    )
    return request, wire.reading.of(load) + more


def _outgoing(load: Load) -> Load:
    """The same with the fields of what goes out: an average has all that its readings have between them."""
    return _gathered(load, load.taken / load.sent) if load.every else load


def _catch_up(load: Load, wire: float) -> float | None:
    request, each = _wire(load)
    ratio = load.sent / load.taken
    rows = _together(load, request, each, ratio)
    one = each + request * min(load.models, rows) / rows
    pace = min((_limit(load) - wire) / one, FASTEST * load.open * ratio - load.sent)
    return load.outage * 3600 * load.sent / pace if pace > 0 else None


def _limit(load: Load) -> float:
    """The bytes a second, over the whole day, of which a backlog has what fresh readings leave."""
    link = min(load.link, in_a_minute(load.link, CONNECTING[load.tls]) / 60) * load.open
    return link if load.per_day is None else min(link, for_backlog(load.per_day) / DAY)


def _together(load: Load, request: float, each: float, ratio: float) -> int:
    """How many readings or averages of a backlog go out at a time, where a request takes so many bytes beside them. At
    a rate they have to fit in as if nothing of them could be compressed (budget.py)."""
    row = _outgoing(load)
    names = NAME * (row.columns + 1)
    largest = max(each, size_with(names, row.fields - row.texts, row.letters).most)
    rows = min(load.batch * ratio, (BURST * load.link / MARGIN - request) / largest)
    if load.per_day is not None:
        piece = piece_of(for_backlog(load.per_day), DAY * 1e6 * load.open, request)
        rows = min(rows, (piece / MARGIN - request) / each)
    return max(1, math.floor(rows))
