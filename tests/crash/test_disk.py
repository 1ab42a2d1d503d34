"""What a power cut leaves, by the rules of the disk it happens to."""

import random
from collections.abc import Iterable

import pytest

from tests.crash.disk import KINDS, Disk, Files, Kind
from tests.crash.recording import Create, Operation, Rename, Sync, SyncFolder, Truncate, Unlink, Write

OLD, NEW = b"o" * 4096, b"n" * 4096
SAFE: list[Operation] = [Create("a", 1), Write(1, 0, OLD), Sync(1), SyncFolder()]


def cuts(operations: Iterable[Operation], kind: Kind) -> list[Files]:
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    return [disk.cut(kind, random.Random(seed)) for seed in range(300)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_synced_is_there(kind: Kind) -> None:
    renamed = [*SAFE, Write(1, 0, NEW), Sync(1), Rename("a", "b"), SyncFolder()]
    assert all(files == {"b": NEW} for files in cuts(renamed, kind))


@pytest.mark.parametrize("kind", ["ordered", "worst"])
def test_what_was_written_over_is_old_or_new_by_sectors(kind: Kind) -> None:
    found = {files["a"] for files in cuts([*SAFE, Write(1, 0, NEW)], kind)}
    assert {OLD, NEW} < found
    for content in found:
        assert len(content) == 4096
        assert all(len(set(content[start : start + 512])) == 1 for start in range(0, 4096, 512))


def test_of_two_writes_the_later_may_be_there_alone() -> None:
    found = [files["a"] for files in cuts([*SAFE, Write(1, 0, NEW), Write(1, 8192, NEW)], "worst")]
    assert OLD + bytes(4096) + NEW in found
    assert NEW in found


def test_a_name_needs_a_sync_of_the_folder_or_on_an_ordered_disk_of_any_file() -> None:
    made: list[Operation] = [Create("a", 1), Write(1, 0, OLD), Sync(1)]
    assert {frozenset(files) for files in cuts(made, "worst")} == {frozenset(), frozenset("a")}
    assert all(files == {"a": OLD} for files in cuts(made, "ordered"))
    assert all(files == {} for files in cuts(made, "dropped"))


def test_names_change_in_order_on_an_ordered_disk() -> None:
    changes = [*SAFE, Create("b", 2), Unlink("a")]
    ordered, worst = ({frozenset(files) for files in cuts(changes, kind)} for kind in ("ordered", "worst"))
    assert ordered == {frozenset("a"), frozenset("ab"), frozenset("b")}
    assert worst == ordered | {frozenset()}


def test_a_file_grows_with_its_data_on_an_ordered_disk_alone() -> None:
    grown = [*SAFE, Write(1, 4096, NEW)]
    assert {files["a"] for files in cuts(grown, "ordered")} == {OLD, OLD + NEW}
    worst = {files["a"] for files in cuts(grown, "worst")}
    assert OLD + bytes(4096) in worst
    assert any(len(content) == 8192 and content[4096:] not in (NEW, bytes(4096)) for content in worst)


@pytest.mark.parametrize("kind", ["ordered", "worst"])
def test_a_file_is_cut_off_or_not(kind: Kind) -> None:
    assert {files["a"] for files in cuts([*SAFE, Truncate(1, 100)], kind)} == {OLD, OLD[:100]}
