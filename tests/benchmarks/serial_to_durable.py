"""The share of one core that 32 serial lines cost until they are in the local store.

The floor reads chunks in a thread for each port, with pyserial, splits them into lines, and does nothing with them.
The product reads, decodes, checks and commits the same lines, through `Gateway`. Both get 100 lines/s on each port,
evenly spread. CPU time is user and system time of the whole process while lines come; start and stop are not in it.
"""

import json
import os
import time
import tty
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.child import Child
from tests.benchmarks.report import Comparison, progress, read_options, report

PORTS = 32
LINES_PER_SECOND = 100
SECONDS = 10
WARM_UP_SECONDS = 0.5


class Feeder:
    """The far ends of 32 ptys, written to in turn at an even pace."""

    def __init__(self) -> None:
        pairs = [os.openpty() for _ in range(PORTS)]
        self._ends = [end for pair in pairs for end in pair]
        self._far = [far for far, _ in pairs]
        for _, near in pairs:
            tty.setraw(near)
        self.names = [os.ttyname(near) for _, near in pairs]
        self.written = 0

    def feed(self, seconds: float) -> None:
        """Write for that long; blocks. Late lines follow at once, so the number is always the same."""
        began = time.monotonic()
        for number in range(round(seconds * PORTS * LINES_PER_SECOND)):
            wait = began + number / (PORTS * LINES_PER_SECOND) - time.monotonic()
            if wait > 0.001:
                time.sleep(wait)
            os.write(self._far[number % PORTS], _line(self.written))
            self.written += 1

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


def _line(number: int) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return f"{now},{number},{number % 500 / 10 - 10},{number % 80 + 15}.5\r\n".encode()


def measure(kind: str, seconds: float) -> float:
    """One round of floor or product: percent of one core."""
    feeder = Feeder()
    with TemporaryDirectory() as folder:
        settings = {"kind": kind, "ports": feeder.names, "store": str(Path(folder) / "store.db")}
        with Child("serial_readers", json.dumps(settings)) as child:
            child.hear()
            feeder.feed(WARM_UP_SECONDS)
            child.tell("measure")
            before = child.hear()
            feeder.feed(seconds)
            child.tell("measure")
            after = child.hear()
            child.tell("stop")
            lines = child.hear()["lines"]
    feeder.close()
    if not feeder.written - PORTS <= lines <= feeder.written:  # the first line of a port may have been a fragment
        raise RuntimeError(f"{kind} took {lines} lines of {feeder.written}")
    return 100 * float(after["cpu"] - before["cpu"]) / float(after["time"] - before["time"])


def main() -> None:
    options = read_options(__doc__)
    shares: dict[str, list[float]] = {"floor": [], "product": []}
    for number in range(options.rounds):
        for kind, found in shares.items():
            found.append(measure(kind, SECONDS * options.scale))
            progress(f"round {number + 1}, {kind}: {found[-1]:.1f} % of one core")
    comparison = Comparison("serial to durable", "% of one core", shares["floor"], shares["product"], factor=4)
    report(options, [comparison], load=f"{PORTS} ports at {LINES_PER_SECOND} lines/s each")


if __name__ == "__main__":
    main()
