"""Where the store's records and the copy of them beside it say different things of one number, or have different
numbers for one name.

A number never gets another meaning, and the store gives out none that the copy knows. So one of the two has changed on
the card, and each line of the copy has a checksum: that one is right. Not so of a store that came out of a backup, or
is older than it was: there the copy may speak of numbers that another life of it has given out.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.backup import MARK
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.sidecar import Line, Sidecar


def is_of_this_life(connection: sqlite3.Connection, sidecar: Sidecar) -> bool:
    """Whether the copy's numbers are the store's, as far as can be told without its rows. Raises `BadRecord`."""
    return sidecar.store_id == schema.text(connection, "store_id") and schema.number(connection, MARK) is None


def check_gateway(connection: sqlite3.Connection, sidecar: Sidecar) -> None:
    """Raises `BadRecord` where the copy names another gateway: the rows would go upstream as those of that."""
    found, known = schema.text(connection, "gateway_id"), sidecar.gateway_id
    if found is not None and known not in (None, found) and is_of_this_life(connection, sidecar):
        raise BadRecord(f"the store is of gateway {found!r}, by the copy beside it of {known!r}")


def contradictions(lines: Iterable[Line], sidecar: Sidecar) -> Iterator[tuple[Line, Line]]:
    """Of these lines, which the store's records make, those that the copy contradicts; the copy's own go first. Of a
    model one may be of later than the other. Where only the copy has a number, its name has got another."""
    there = {line[:2]: line for line in lines}
    kinds = {kind for kind, _ in there}
    missing = [(kind, *row) for kind in kinds for row in sidecar.rows(kind) if (kind, row[0]) not in there]
    by_name = {_name_of(line): line for line in missing}
    for line in there.values():
        known = sidecar.find(line) or by_name.get(_name_of(line))
        if known is not None and not _agree(known, line):
            yield known, line


def _name_of(line: Line) -> Line:
    return (line[0], *line[2 : 4 if line[0] == "series" else 3])


def text_of(known: Line, found: Line) -> str:
    """What is wrong, for people."""
    if found[1] != known[1]:
        return f"{found[0]} {_named(found, found)} is number {found[1]}, by the copy beside the store {known[1]}"
    mine, copied = _named(found, known), _named(known, found)
    return f"{found[0]} {found[1]} is {mine}, by the copy beside the store {copied}"


def _agree(known: Line, found: Line) -> bool:
    if found[0] != "model" or found[1] != known[1]:
        return known == found
    return known == found or (known[2] == found[2] and Catalogue.may_be_one(known[4], found[4]))


def _named(line: Line, other: Line) -> str:
    kind, _, *rest = line
    if kind == "series":
        return f"{rest[1]!r} of model {rest[0]}"
    if kind == "source" or rest[0] != other[2] or line == other:
        return repr(rest[0])
    mine, theirs = ([(one["name"], one["type"]) for one in json.loads(text)] for text in (line[4], other[4]))
    name, type_name = next(pair for pair, their in zip(mine, theirs, strict=False) if pair != their)
    return f"{rest[0]!r} with {name} as {type_name}"
