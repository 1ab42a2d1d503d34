"""The judge: what the devices sent against what the database holds. It shares no code with the product."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from tests.end_to_end.devices import Line, Message, Sample

GATEWAY, MQTT, SERIAL, UPSTREAM = "roof", "garden", "mast", "central"
"""The names in the gateway's configuration; the serial driver's device has the driver's name."""
NEVER_ACCEPTED = "messages that the broker never acknowledged"
BROKER_DROP = "messages that the killed broker forgot after it had acknowledged them"
GATEWAY_DEAD = "serial lines from one flush interval before a kill until the port was open again"

Identity = tuple[str, datetime]
Outage = tuple[float, float]
"""From, to: monotonic seconds."""


class Held(NamedTuple):
    """One row of the hypertable."""

    gateway: str
    sample: Sample
    quality: int | None
    version: tuple[int, int]


def read_table(url: str) -> list[Held]:
    """All rows of the hypertable `weather`."""
    columns = "gateway_id, device_id, timestamp, counter, temperature, humidity, quality, store_epoch, gateway_seq"
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"SELECT {columns} FROM weather").fetchall()
    return [Held(row[0], Sample(*row[1:6]), row[6], (row[7], row[8])) for row in rows]


def is_hypertable(url: str) -> bool:
    """Whether `weather` is one, and not just a table."""
    query = "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'weather'"
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone() == (1,)


class BrokerKill(NamedTuple):
    """A SIGKILL of the broker: the state it had saved last, when it had done so, and when it came back (monotonic)."""

    state: bytes
    saved: float
    restarted: float

    def explains(self, message: Message) -> bool:
        """Whether the broker forgot the message after it had acknowledged it.

        mosquitto saves after each change, but a message that is under way to the gateway is none to it before the
        gateway has acknowledged that or another one. What it took before its last save is in that state, or was
        acknowledged; what it took later is forgotten unless the state has it. (File times are coarse: 50 ms.)

        Most of these the gateway has in hand, and commits. The others were lost with the gateway, killed at about
        that time, or mosquitto had acknowledged them before it sent them on: of 540 such in 90 kills beside a living
        gateway none had come over its connection.
        """
        if message.acknowledged is None or message.payload in self.state:
            return False
        return self.saved - 0.05 < message.acknowledged < self.restarted


@dataclass
class Sent:
    """All that the devices sent, and what they may be excused for."""

    messages: Sequence[Message]
    lines: Sequence[Line]
    port_outages: Sequence[Outage] = ()
    """From one flush interval before each kill of the gateway until its port was open again."""
    broker_kills: Sequence[BrokerKill] = ()

    def excuse_of_message(self, message: Message) -> str | None:
        """Why the message may be missing, None if it may not."""
        if message.acknowledged is None:
            return NEVER_ACCEPTED
        return BROKER_DROP if any(kill.explains(message) for kill in self.broker_kills) else None

    def excuse_of_line(self, line: Line) -> str | None:
        """Why the line may be missing, None if it may not."""
        overlaps = (begin <= line.done and line.began <= end for begin, end in self.port_outages)
        return GATEWAY_DEAD if any(overlaps) else None

    def first_lines(self) -> set[bytes]:
        """The first line after each opening of the port: if it makes no sense, its front may be missing."""
        after = ([line.text for line in self.lines if line.began > end] for _, end in self.port_outages)
        return {texts[0] for texts in after if texts}

    def samples(self) -> Iterator[tuple[Sample, str | None]]:
        """Every reading that was sent, with its excuse."""
        yield from ((m.sample, self.excuse_of_message(m)) for m in self.messages if m.sample)
        yield from ((line.sample, self.excuse_of_line(line)) for line in self.lines if line.sample)


@dataclass
class Verdict:
    """What the judge found. `lost`, `twice` and `wrong` are the product's fault, what is excused is not."""

    held: int
    required: int = 0
    lost: list[Sample] = field(default_factory=list)
    twice: list[Held] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.twice or self.wrong)

    def __str__(self) -> str:
        excuses = "".join(f"; missing and excused: {count} {excuse}" for excuse, count in self.excused.items())
        found = f"lost {len(self.lost)}, twice {len(self.twice)}, wrong {len(self.wrong)}"
        examples = [str(example) for kind in (self.lost, self.twice, self.wrong) for example in kind[:3]]
        return "\n  ".join([f"{self.required} required, {self.held} held: {found}{excuses}", *examples])


def judge(sent: Sent, held: Sequence[Held]) -> Verdict:
    """Compare readings, one by one."""
    verdict = Verdict(len(held))
    there = {_identity(row.sample) for row in held}
    originals: dict[Identity, Sample] = {}
    for sample, excuse in sent.samples():
        originals[_identity(sample)] = sample
        if excuse and _identity(sample) not in there:
            verdict.excused[excuse] += 1
            continue
        verdict.required += 1
        if _identity(sample) not in there:
            verdict.lost.append(sample)
    verdict.twice = _repeated(held)
    verdict.wrong = [problem for row in held if (problem := _what_is_wrong(row, originals))]
    return verdict


def _identity(sample: Sample) -> Identity:
    return sample.device, sample.timestamp


def _repeated(held: Sequence[Held]) -> list[Held]:
    """Rows whose identity, or counter, or place in the gateway's sequence was seen in a row before."""
    repeated: list[Held] = []
    seen: set[object] = set()
    for row in held:
        marks = {_identity(row.sample), (row.sample.device, row.sample.counter), (row.gateway, *row.version)}
        if marks & seen:
            repeated.append(row)
        seen |= marks
    return repeated


def _what_is_wrong(row: Held, originals: dict[Identity, Sample]) -> str | None:
    original = originals.get(_identity(row.sample))
    if original is None:
        return f"nobody sent {row.sample}"
    if original != row.sample:
        return f"sent {original}, held {row.sample}"
    if row.gateway != GATEWAY or row.quality:
        return f"held with gateway {row.gateway!r} and quality {row.quality}: {row.sample}"
    return None


def judge_rejected(sent: Sent, rejected: dict[str, list[bytes]], lives: int) -> list[str]:
    """What is wrong with the rejected messages and lines: all undecodable ones must be there, and nothing else.

    A message may be there several times, for one that was not acknowledged comes again. A line may not. Each opening
    of the port (`lives`) may have found one line that was torn; so a first line may be missing.
    """
    messages = {m.payload: sent.excuse_of_message(m) for m in sent.messages if not m.sample}
    problems = _missing(messages, rejected.get(MQTT, []))
    problems += [f"rejected, but nobody sent it: {raw!r}" for raw in rejected.get(MQTT, []) if raw not in messages]
    lines = {line.text: sent.excuse_of_line(line) for line in sent.lines if not line.sample}
    lines |= dict.fromkeys(sent.first_lines() & lines.keys(), GATEWAY_DEAD)
    found = rejected.get(SERIAL, [])
    problems += _missing(lines, found)
    problems += [f"rejected {n} times: {raw!r}" for raw, n in Counter(found).items() if n > 1]
    torn = [raw for raw in found if raw not in lines]
    if len(torn) > lives:
        problems.append(f"{len(torn)} torn lines for {lives} openings of the port: {torn[:5]}")
    return problems


def _missing(undecodable: dict[bytes, str | None], found: Sequence[bytes]) -> list[str]:
    return [
        f"not among the rejected: {raw!r}" for raw, excuse in undecodable.items() if not excuse and raw not in found
    ]


def judge_books(books: dict[str, Any], held: Sequence[Held], rejected: dict[str, list[bytes]], lives: int) -> list[str]:
    """Where the gateway's books differ from what the judge counts.

    Redelivered messages are counted as they come, readings as duplicates and rejected ones again, so those counts have
    no counterpart; but what is new, what was delivered and what lies among the rejected has. Nothing is ignored but
    the first line of each opening of the port (`lives`), which may be torn.
    """
    rows = Counter(SERIAL if row.sample.device == SERIAL else MQTT for row in held)
    expected: dict[str, int] = {"problems": 0}
    counted: dict[str, int] = {"problems": len(books["problems"])}
    for source in (MQTT, SERIAL):
        entries = books["sources"][source]
        expected |= {f"{source} new": rows[source], f"{source} rejected": len(rejected.get(source, []))}
        expected |= {f"{source} {name}": 0 for name in ("merged", "replaced", "rejected_readings", "rejected_fields")}
        expected[f"{source} messages"] = sum(entries[name] for name in ("new", "duplicates", "rejected", "ignored"))
        counted |= {f"{source} {name}": count for name, count in entries.items()}
    expected |= {f"{SERIAL} duplicates": 0, f"{MQTT} ignored": 0}
    expected[f"{SERIAL} ignored"] = min(lives, books["sources"][SERIAL]["ignored"])
    upstream = books["upstreams"][UPSTREAM]
    expected |= dict.fromkeys(upstream, 0) | {"versions": len(held), "delivered": len(held)}
    counted |= upstream
    return [f"{name}: the books say {counted[name]}, it is {n}" for name, n in expected.items() if counted[name] != n]
