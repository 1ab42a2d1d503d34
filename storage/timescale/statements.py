"""Loads `statements.sql`: a line ``-- name: x`` begins the statement x, other comment lines are for the reader."""

from __future__ import annotations

import re
from importlib import resources

from psycopg.sql import SQL


def load(text: str) -> dict[str, SQL]:
    """The statements of a file by name, without their comments."""
    _, *parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    bodies = (re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip() for body in parts[1::2])
    return dict(zip(parts[::2], map(SQL, bodies), strict=True))


STATEMENTS = load(resources.files(__package__).joinpath("statements.sql").read_text("utf-8"))
