"""Records themes, rebuilds what power cuts may leave, and has each state judged."""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk import KINDS, Disk, Files, Kind, digest, disks
from tests.crash.judge import BrokenPromise, Found, compare, examine, put
from tests.crash.promises import Promises
from tests.crash.recording import (
    NOT_RECORDED,
    Create,
    Mark,
    Operation,
    Recording,
    RecordingError,
    Rename,
    Replace,
    SyncFolder,
    Unlink,
    build,
    record,
)
from tests.crash.themes import THEMES, UNTIMED, Between
from tests.crash.workload import PLANTED

_IN_MEMORY = Path("/dev/shm")
DRAWS = 60
"""How often what a power cut leaves is drawn right after a file got a new name; a tenth of it until that is safe."""
ROUNDS = 100
"""After so many rounds a recording has no more states to offer."""


@dataclass(slots=True)
class Outcome:
    """What came of one recording."""

    theme: str
    seed: int
    operations: int = 0
    cuts: int = 0
    """States built: a cut and what became of the unsynced."""
    opened: int = 0
    """Different files among them, each opened by the product."""
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where the machine has one."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def recording_of(theme: str, seed: int, planted: str = "") -> list[Operation]:
    """All operations of a theme's processes. See `PLANTED` for what may be planted."""
    recording = Recording()
    with quick_folder() as place:
        library, folder = build(place), place / "store"
        folder.mkdir()
        for number, step in enumerate(THEMES[theme]):
            if isinstance(step, Between):
                files = step.change(recording.operations, random.Random(seed + number))
                put(files, folder)
                recording.replace(files)
                _find(recording, examine(files, place / "looked at", theme not in UNTIMED))
            else:
                log = place / f"log{number}"
                arguments = [theme, str(number), str(folder), str(seed), str(recording.deeds)]
                record(library, folder, log, ["-m", "tests.crash.themes", *arguments], {PLANTED: planted})
                recording.add(log)
        _check(recording.operations, folder)
    return recording.operations


def _find(recording: Recording, found: Found) -> None:
    """What the product makes of new files is what it has to make of them after any power cut from then on."""
    number = recording.deeds + 1
    recording.mark(json.dumps({"begin": {"do": "find", **found.told()}}))
    recording.mark(json.dumps({"promised": "durable", "deed": number}))


def _check(operations: list[Operation], folder: Path) -> None:
    """That what was recorded is what happened: the files of a machine that ran on are those that are there."""
    rebuilt = Disk()
    for operation in operations:
        rebuilt.do(operation)
    there = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(NOT_RECORDED)}
    if rebuilt.cut("kept", random.Random(0)) != there:
        raise RecordingError("what was recorded is not what happened: the files differ")


def judge(
    theme: str, seed: int, operations: list[Operation], states: int, stop_at: int = 3, *, every: bool = False
) -> Outcome:
    """Open about that many different states that a power cut during the recording may leave.

    Cuts are spread evenly; at each, what was not synced is lost in a way that its seed draws. With `every` there is a
    cut after each operation, however many states that makes. Ends early when `stop_at` states were not as promised.
    """
    began = time.monotonic()
    outcome = Outcome(theme, seed, sum(not isinstance(one, Mark) for one in operations))
    promises = Promises(operations)
    known: dict[bytes, Found | BrokenPromise] = {}
    with quick_folder() as place:
        for cut, kind, files in _cuts(operations, seed, states, lambda: len(known), every):
            outcome.cuts += 1
            mark = digest(files)
            if mark not in known:
                known[mark] = _examined(files, place / "store", theme not in UNTIMED)
            now = promises.at[cut]
            low = max(now.durable, now.committed) if kind == "kept" else now.durable
            try:
                found = known[mark]
                if isinstance(found, BrokenPromise):
                    raise found
                compare(found, promises.states, low, now.begun)
            except BrokenPromise as exc:
                outcome.broken.append(f"{theme}, seed {seed}, cut after operation {cut}, {kind}: {exc}")
                if len(outcome.broken) >= stop_at:
                    break
    outcome.opened, outcome.seconds = len(known), time.monotonic() - began
    return outcome


def _examined(files: Files, folder: Path, knows_time: bool) -> Found | BrokenPromise:
    try:
        return examine(files, folder, knows_time)
    except BrokenPromise as exc:
        return exc


def _cuts(
    operations: list[Operation], seed: int, states: int, opened: Callable[[], int], every: bool
) -> Iterator[tuple[int, Kind, Files]]:
    """Cuts with what they leave, until so many different ones are opened: first each moment at which something was just
    promised, and each at which a file just got a name, lost it, or had that made sure; with `every` then all moments,
    then rounds of random ones."""
    marks = {done for done, one in enumerate(operations, 1) if isinstance(one, Mark)}
    yield from _cuts_at(operations, marks, f"{seed}/marks", ("dropped", "worst"))
    names = {done for done, one in enumerate(operations, 1) if isinstance(one, Create | Unlink | Rename | SyncFolder)}
    yield from _cuts_at(operations, names, f"{seed}/names", KINDS)
    unsafe = set(_renaming(operations))
    renamed = {done for done in unsafe if isinstance(operations[done - 1], Rename)}
    for number in range(DRAWS):
        moments = renamed if number % 10 else unsafe
        yield from _cuts_at(operations, moments, f"{seed}/renamed/{number}", ("worst",))
    if every:
        yield from _cuts_at(operations, set(range(len(operations) + 1)), f"{seed}/every", ("kept", "worst"))
    rounds = random.Random(seed)
    for number in range(ROUNDS):
        missing = states - opened()
        if missing <= 0:
            return
        count = min(len(operations) + 1, 1 + missing // 3)
        moments = set(rounds.sample(range(len(operations) + 1), count))
        yield from _cuts_at(operations, moments, f"{seed}/{number}", KINDS)


def _renaming(operations: list[Operation]) -> Iterator[int]:
    """The moments at which a file has a new name that the folder may not keep. Of several each may be lost alone."""
    is_unsafe = False
    for done, one in enumerate(operations, 1):
        is_unsafe = (is_unsafe or isinstance(one, Rename)) and not isinstance(one, (SyncFolder, Replace))
        if is_unsafe:
            yield done


def _cuts_at(
    operations: list[Operation], moments: set[int], seed: str, kinds: tuple[Kind, ...]
) -> Iterator[tuple[int, Kind, Files]]:
    for done, disk in disks(operations):
        if done in moments and not isinstance(operations[done - 1], Replace):  # what is promised then comes next
            for kind in kinds:
                yield done, kind, disk.cut(kind, random.Random(f"{seed}/{done}/{kind}"))
