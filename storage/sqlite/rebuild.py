"""Makes a new store out of what can be read of a damaged one.

    damaged file --- SQLite, table by table ----.
    its pages ------ rows by their shape --------> records -> readings -> hours -> journal, books -> new file
    the sidecar ---- models, series, sources ---`

All readings go into history first. From there the journal gets back every row that it lacks and some upstream may still
be owed. The hours are computed anew; what the old ones say tells how many readings are missing where.
"""

from __future__ import annotations

from pathlib import Path

from edgedepot.storage.sqlite.draft import Draft
from edgedepot.storage.sqlite.pages import Pages
from edgedepot.storage.sqlite.rebuild_hours import add_all_hours, add_hours_again, compare_hours, keep_changed
from edgedepot.storage.sqlite.rebuild_numbers import Numbers
from edgedepot.storage.sqlite.rebuild_readings import Readings
from edgedepot.storage.sqlite.rebuild_records import copy_records
from edgedepot.storage.sqlite.report import LostSpan
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.tables import refresh_view


class Rebuild:
    """One attempt. Raises `sqlite3.Error` where the new file cannot be written."""

    def __init__(
        self, target: Path, old: Path, pages: Pages, sidecar: Sidecar, partitions: int | None, *, complete: bool
    ) -> None:
        """`complete` says that the log is whole; `partitions` is how many of history to take, all for None."""
        self._draft = Draft(target, old, pages, sidecar, complete=complete)
        self._limit = partitions
        self.left_out = 0
        """How many readings there is no room for, as far as they can be counted."""

    @property
    def partitions(self) -> int:
        """How many partitions of history it has put into the new file, or was about to."""
        return sum(map(len, self._draft.shape.partitions.values()))

    @property
    def kept(self) -> int:
        """How many readings are in the new file."""
        return self._draft.kept

    @property
    def spans(self) -> list[LostSpan]:
        """Where readings are missing."""
        return self._draft.spans

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """Of what since the last fold nothing is there."""
        return self._draft.numbers

    @property
    def unplaced(self) -> int:
        """How many more are lost, but for those that there was no room for."""
        return max(0, self._draft.unplaced - self.left_out)

    @property
    def notes(self) -> list[str]:
        """What else there is to say."""
        return self._draft.notes

    def run(self) -> None:
        """Do all of it, up to the file that can take the old one's place."""
        draft = self._draft
        copy_records(draft)
        readings = Readings(draft, self._limit)
        readings.copy()
        add_all_hours(draft)
        compare_hours(draft, readings.left_out)
        add_hours_again(draft, readings.fold())
        self.left_out = readings.rows_left_out
        keep_changed(draft)
        draft.let_go()
        numbers = Numbers(draft)
        numbers.settle()
        self._settle_series()
        if draft.old_shape is None:
            numbers.note_unknown()

    def _settle_series(self) -> None:
        draft = self._draft
        for _, _, table in draft.partitions():
            draft.new.execute(
                f"UPDATE main._series SET newest = max(coalesce(newest, found.ts), found.ts)"
                f" FROM (SELECT series, max(ts) AS ts FROM main.{table} GROUP BY series) AS found"
                " WHERE id = found.series"
            )
            draft.kept += draft.new.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]
        for layout in draft.layouts.values():
            refresh_view(draft.new, draft.shape, layout)

    def close(self) -> None:
        """Give the attempt up, or end it."""
        self._draft.new.close()

    def finish(self, report: str) -> None:
        """Write the report down and close the file for good."""
        self._draft.finish(report)
