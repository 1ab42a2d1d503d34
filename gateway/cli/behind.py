"""How far behind an upstream is, what holds its readings up, and what to do about that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgedepot.cli.output import counted, duration, size

LATE = 60.0
"""Seconds by which the oldest pending reading may be behind before that is worth a line."""

_CURES = {
    "link": "All goes as fast as the link takes it. A faster link helps, or averages only: every.",
    "server": "The server asks for less, or refuses: its own log says why.",
    "budget": "Its limits hold them back: raise max_rate or max_per_day, or have averages only go: every.",
    "window": "It is not one of its hours: see windows in the gateway's file. Nothing is lost.",
}


def say_behind(name: str, live: Mapping[str, Any], books: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Lines with their styles; none where it keeps up."""
    limit, pending = live.get("limited_by"), books.get("pending", 0)
    if not pending or (live.get("lag", 0.0) < LATE and limit not in ("budget", "window")):
        return
    yield "yellow", f"{name} is {duration(live['lag'])} behind, by {counted(pending, 'reading')}; {_when(live)}"
    if live.get("spent_today") is not None:
        yield "yellow", f"    Of the day's budget {size(live['spent_today'])} are spent."
    if limit in _CURES:
        yield "yellow", f"    {_CURES[limit]}"


def _when(live: Mapping[str, Any]) -> str:
    if live["state"] == "held" and live["retry_in"] is not None and live["retry_in"] > LATE:
        return f"goes on in {duration(live['retry_in'])}."
    if live.get("eta") is None:
        return "it does not become less."
    return f"up to date in {duration(live['eta'])} at the latest pace."
