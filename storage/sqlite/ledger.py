"""The books as people read them, and the check that they balance.

    messages:             in = decoded + ignored + rejected
    readings per source:  readings = new + merged + duplicates + rejected readings
    per upstream:         versions = pending + held + delivered + quarantined + superseded + skipped + deleted
                                     + thinned + evicted + lost

`versions` counts what was written (new + merged, since the upstream was added); `pending` is counted from the rows that
are there. So a row that went missing between the two shows as an imbalance.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgedepot.storage.base import Ledger
from edgedepot.storage.sqlite.acknowledge import count_held, count_pending
from edgedepot.storage.sqlite.books import COLUMNS, RESOLVED, Books
from edgedepot.storage.sqlite.given_up import read_given_up
from edgedepot.storage.sqlite.missing import where_missing
from edgedepot.storage.sqlite.records import BadRecord, read_records
from edgedepot.storage.sqlite.view import View


def read_ledger(view: View) -> Ledger:
    """The books as the view's transaction sees them, checked. Takes time with the number of the journal's pieces."""
    books = Books.load(view.connection, view.shape)
    names = dict(read_records(view.connection, "_sources", ("id", "name")))
    if not names.keys() >= books.sources.keys():
        raise BadRecord("the books count a source that has no name")
    sources = {names[source]: dict(zip(COLUMNS, counts, strict=True)) for source, counts in books.sources.items()}
    upstreams = {
        name: {
            "versions": books.versions() - book.versions_before,
            "pending": count_pending(view.connection, view.shape, book) - count_held(view.connection, view.shape, book),
            "held": count_held(view.connection, view.shape, book),
            **dict(zip(RESOLVED, book.counts, strict=True)),
        }
        for name, book in sorted(books.cursors.items())
    }
    given_up = [
        one for name, book in sorted(books.cursors.items()) for one in read_given_up(view.connection, name, book.id)
    ]
    problems = [*_of_sources(sources), *_of_upstreams(upstreams, view)]
    return Ledger(dict(sorted(sources.items())), upstreams, problems, given_up)


def _of_sources(sources: Mapping[str, Mapping[str, int]]) -> list[str]:
    found: list[str] = []
    for name, n in sources.items():
        accounted = n["decoded"] + n["ignored"] + n["rejected"]
        if n["messages"] != accounted:
            found.append(f"source {name}: {n['messages']} messages came in, {accounted} are accounted for")
        accounted = n["new"] + n["merged"] + n["duplicates"] + n["rejected_readings"]
        if n["readings"] != accounted:
            found.append(f"source {name}: {n['readings']} readings were decoded, {accounted} are accounted for")
    return found


def _of_upstreams(upstreams: Mapping[str, Mapping[str, int]], view: View) -> list[str]:
    found: list[str] = []
    for name, n in upstreams.items():
        accounted = sum(count for column, count in n.items() if column != "versions")
        if n["versions"] != accounted:
            where = where_missing(view)
            text = f"upstream {name}: {n['versions']} versions were written, {accounted} are accounted for; {where}"
            found.append(text)
    return found
