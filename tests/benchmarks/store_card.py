"""Bytes that reach the device, on an ext4 file system in a file of its own. Needs root, and says so where it has not.

50 readings a second come from 20 devices, 4 floats each: 42 bytes of payload. They are committed each second or every
ten, an upstream acknowledges all of them every five seconds, and they are folded every ten minutes, after which the
journal's pieces go: the whole life of a reading but for its end, which `store_retention` measures. A round is four
hours of that, by a clock moved by hand, behind half an hour that is not counted: in fewer it would matter whether the
log was just written back.

Acknowledging is measured by commits that carry an acknowledgement of 5,000 rows each, beside the same without.
"""

from datetime import timedelta
from pathlib import Path

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.reading import define_model
from tests.benchmarks.loop_mount import LoopMount, NoLoopMount
from tests.benchmarks.report import Comparison, Options, alternate, progress, read_options, report
from tests.benchmarks.store_rows import DEVICES, FIELDS, FIRST, Station, fill, readings, values

A_SECOND = 50
PAYLOAD = 42
ACKNOWLEDGED = 5.0
SPAN, BEFORE = 14_400, 1_800
BARS = {(1.0, 1): 15.0, (1.0, 5): 16.5, (10.0, 1): 7.0}
"""By the seconds between commits, and the number of reading models."""
WINDOW = 5_000
COMMITS = 20


class Gateway:
    """A store and what comes in and goes out, by a clock that is moved by hand."""

    def __init__(self, path: Path, every: float, models: int) -> None:
        self._clock = ManualClock(FIRST)
        self._store = SQLiteStorage(path, gateway_id="roof", clock=self._clock, flush_interval="1d")
        self._store.add_cursor("central")
        types = dict.fromkeys(FIELDS, (float, True, None))
        self._models = [define_model(f"Station{number}", types) for number in range(models)]
        self._every = every
        self._elapsed = self._acknowledged = 0.0
        self._number = 0

    def run(self, seconds: float) -> int:
        """Let that much time go by; how many readings came."""
        before, end = self._number, self._elapsed + seconds
        while self._elapsed < end:
            self._commit()
            if self._elapsed - self._acknowledged >= ACKNOWLEDGED:
                self._acknowledge()
        return self._number - before

    def _commit(self) -> None:
        rows: dict[type[Reading], list[tuple[str, object, dict[str, float]]]] = {}
        start, count = FIRST + timedelta(seconds=self._elapsed), round(A_SECOND * self._every)
        for index in range(count):
            device = self._number % DEVICES
            model = self._models[device % len(self._models)]
            moment = start + timedelta(seconds=index / A_SECOND)
            data = dict(zip(FIELDS, values(self._number), strict=True))
            rows.setdefault(model, []).append((f"station {device}", moment, data))
            self._number += 1
        receipts = [self._store.store_readings(model, some) for model, some in rows.items()]  # type: ignore[arg-type]
        self._clock.advance(self._every)
        self._elapsed += self._every
        receipts[-1].wait()

    def _acknowledge(self) -> None:
        self._acknowledged = self._elapsed
        window = self._store.pending("central", WINDOW)
        if window is not None:
            self._store.acknowledge("central", window)

    def close(self) -> None:
        self._store.fold()
        self._store.close()


def whole_life(options: Options, mount: LoopMount, every: float, models: int) -> Comparison:
    gateway = Gateway(mount.path / f"{every:g} {models}.db", every, models)
    gateway.run(max(60, options.of(BEFORE)))

    def a_round() -> float:
        before = mount.written()
        count = gateway.run(max(60, options.of(SPAN)))
        return (mount.written() - before) / count

    name = f"{every:g} s commits, {models} model{'s' if models > 1 else ''}"
    found = alternate(options, f"bytes a reading, {name}", {"product": a_round})
    gateway.close()
    return Comparison(name, "bytes a reading", [PAYLOAD] * options.rounds, found["product"], BARS[every, models])


def acknowledging(options: Options, mount: LoopMount) -> Comparison:
    """What an acknowledgement adds to a commit of 50 rows, as bytes per row that it acknowledges."""
    commits = max(2, options.of(COMMITS))
    needed = WINDOW * commits * options.rounds
    with SQLiteStorage(mount.path / "acknowledging.db", gateway_id="roof", flush_interval="1d") as store:
        store.add_cursor("central")
        progress(f"writing {needed:,} rows to be acknowledged")
        fill(store, 0, needed)
        number = needed

        def commit(acknowledge: bool) -> float:
            nonlocal number
            before = mount.written()
            for _ in range(commits):
                if acknowledge:
                    window = store.pending("central", WINDOW)
                    assert window is not None
                    store.acknowledge("central", window)
                store.store_readings(Station, readings(number, A_SECOND)).wait()
                number += A_SECOND
            return (mount.written() - before) / (commits * WINDOW)

        found = alternate(
            options,
            "bytes per row of the windows",
            {"without": lambda: commit(False), "with": lambda: commit(True)},
        )
    added = [one - other for one, other in zip(found["with"], found["without"], strict=True)]
    return Comparison("acknowledging 5,000 rows", "bytes a row", [1.0] * options.rounds, added, 1)


def main() -> None:
    options = read_options(__doc__)
    try:
        with LoopMount() as mount:
            comparisons = [whole_life(options, mount, every, models) for every, models in BARS]
            comparisons.append(acknowledging(options, mount))
    except NoLoopMount as exc:
        report(options, [], not_run=str(exc))
    else:
        report(options, comparisons, payload=PAYLOAD, readings_a_second=A_SECOND)


if __name__ == "__main__":
    main()
