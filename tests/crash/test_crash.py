"""Whatever a power cut leaves of the store opens, with all that was promised by then. `make crash` does more of it."""

import random
import re
from itertools import pairwise

import pytest

from tests.crash.campaign import judge, quick_folder, recording_of
from tests.crash.recording import Create, Mark, Operation, Recording, RecordingError, Sync, build, record
from tests.crash.themes import THEMES

SEED = 1
STATES = 2000 // len(THEMES) + 1
"""Of each theme: at least 2,000 different ones together."""


@pytest.fixture(scope="module")
def recordings() -> dict[str, list[Operation]]:
    """Every theme, recorded once."""
    return {theme: recording_of(theme, SEED) for theme in THEMES}


@pytest.mark.parametrize("theme", THEMES)
def test_what_a_power_cut_leaves_opens_with_all_that_was_promised(
    recordings: dict[str, list[Operation]], theme: str
) -> None:
    outcome = judge(theme, SEED, recordings[theme], STATES)
    print(outcome)
    assert outcome.broken == []
    assert outcome.opened >= STATES


def test_receipts_before_the_sync_are_found() -> None:
    """The process says "durable" where the store only committed."""
    recording = recording_of("ingest", SEED, "promise at commit")
    broken = judge("ingest", SEED, recording, 100).broken
    assert broken
    assert "lost: " in broken[0]
    assert re.search(r"as it was after deed (\d+); promised is deed (?!\1)\d+", broken[0])


def test_a_disk_that_lies_once_is_found(recordings: dict[str, list[Operation]]) -> None:
    """Of the syncs that settled a receipt one did nothing."""
    operations = recordings["merge"]
    marks = [(place, one.text) for place, one in enumerate(operations) if isinstance(one, Mark)]
    settling = [
        [place for place, one in enumerate(operations[begun:settled], begun) if isinstance(one, Sync)][-1]
        for (begun, text), (settled, after) in pairwise(marks)
        if '"begin"' in text and '"promised"' in after
    ]
    place = random.Random(SEED).choice(settling)
    outcome = judge("merge", SEED, [*operations[:place], *operations[place + 1 :]], 100)
    assert outcome.broken


def test_a_checkpoint_that_is_not_synced_is_found(recordings: dict[str, list[Operation]]) -> None:
    """The WAL begins anew although what it held did not come to the file."""
    operations = recordings["fold"]
    (file,) = {one.file for one in operations if isinstance(one, Create) and one.name == "gateway.db"}
    syncs = [one for one in operations if isinstance(one, Sync) and one.file == file]
    assert len(syncs) > 2
    lying = [one for one in operations if not (isinstance(one, Sync) and one.file == file)]
    assert judge("fold", SEED, lying, 100).broken


def test_a_long_log_goes_into_the_file_in_portions(recordings: dict[str, list[Operation]]) -> None:
    """So the power also goes between two of them."""
    operations = recordings["long log"]
    (file,) = {one.file for one in operations if isinstance(one, Create) and one.name == "gateway.db"}
    assert sum(isinstance(one, Sync) and one.file == file for one in operations) > 5


def test_what_cannot_be_rebuilt_is_no_recording() -> None:
    """A hard link, say: nothing of the store makes one."""
    with quick_folder() as place:
        folder, log = place / "store", place / "log"
        folder.mkdir()
        code = f"import os; open('{folder}/a', 'w').close(); os.link('{folder}/a', '{folder}/b')"
        record(build(place), folder, log, ["-c", code], {})
        with pytest.raises(RecordingError, match="link"):
            Recording().add(log)


def test_no_compiler_is_said_clearly() -> None:
    with quick_folder() as folder, pytest.raises(RecordingError, match="need a C compiler"):
        build(folder, "no-such-compiler")
