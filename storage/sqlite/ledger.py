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

from edgedepot.storage.buffer import Ledger
from edgedepot.storage.reasons import Reason
from edgedepot.storage.sqlite.acknowledge import count_held, count_pending
from edgedepot.storage.sqlite.books import COLUMNS, RESOLVED, Books, where_miscounted
from edgedepot.storage.sqlite.given_up import read_given_up
from edgedepot.storage.sqlite.missing import where_missing
from edgedepot.storage.sqlite.records import BadRecord, read_records
from edgedepot.storage.sqlite.view import View

_ACCOUNTS = (
    ("messages", "came in", ("decoded", "ignored", "rejected")),
    ("readings", "were decoded", ("new", "merged", "duplicates", "rejected_readings")),
)


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
    problems = [*_of_sources(books, names, view), *_of_upstreams(upstreams, view)]
    return Ledger(dict(sorted(sources.items())), upstreams, problems, given_up)


def _of_sources(books: Books, names: Mapping[int, str], view: View) -> list[str]:
    found: list[str] = []
    for source, counts in books.sources.items():
        n = dict(zip(COLUMNS, counts, strict=True))
        for whole, came, parts in _ACCOUNTS:
            accounted = sum(n[part] for part in parts)
            if n[whole] != accounted:
                where = where_miscounted(view.connection, view.shape, source, whole, parts)
                text = f"source {names[source]}: {n[whole]} {whole} {came}, {accounted} are accounted for; {where}"
                found.append(text)
    return found


def read_reasons(view: View, limit: int) -> list[Reason]:
    """The most frequent reasons for which something was rejected, then those for which it was quarantined."""
    rejected = view.connection.execute(
        "SELECT s.name, kind, reason, count(*) AS n FROM _rejected JOIN _sources AS s ON s.id = source"
        " GROUP BY source, kind, reason ORDER BY n DESC, s.name, kind, reason LIMIT ?",
        (limit,),
    )
    quarantined = view.connection.execute(
        "SELECT c.name, 'quarantined', reason, count(*) AS n FROM _quarantined JOIN _cursors AS c ON c.id = cursor"
        " WHERE replay = 0 GROUP BY cursor, reason ORDER BY n DESC, c.name, reason LIMIT ?",
        (limit,),
    )
    return [Reason(*row) for row in (*rejected, *quarantined)]


def _of_upstreams(upstreams: Mapping[str, Mapping[str, int]], view: View) -> list[str]:
    found: list[str] = []
    for name, n in upstreams.items():
        accounted = sum(count for column, count in n.items() if column != "versions")
        if n["versions"] != accounted:
            where = where_missing(view)
            text = f"upstream {name}: {n['versions']} versions were written, {accounted} are accounted for; {where}"
            found.append(text)
    return found
