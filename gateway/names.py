"""What gateways, drivers and upstreams may be called."""

from __future__ import annotations

import re

from edgedepot.storage.buffer import DIRECT

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


def name_problem(name: object) -> str | None:
    """What is wrong with the name of a gateway, a driver or an upstream; None when it is good."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return "expected 1 to 63 letters, digits, _, . and -, starting with a letter or a digit"


def driver_name_problem(name: object) -> str | None:
    """As `name_problem`, for a driver's."""
    if name == DIRECT:
        return "readings that Python code stores itself are booked under that name, expected another"
    return name_problem(name)
