"""How far behind an upstream is, what holds its readings up, what it does not get for want of room, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from edgedepot.cli.output import ago, duration, size
from edgedepot.words import counted

LATE = 60.0
"""Seconds by which the oldest pending reading may be behind before that is worth a line."""

_DAY = 86_400.0
_WAYS = {"thinned": "thinned to their minutes' averages", "evicted": "evicted"}
_SYNCHRONISE = 'Have it synchronised (NTP), or set [clock] trust = "always".'
_CURES = {
    "link": "There is no link, or it breaks, or nobody answers at its address: its readings wait. See the last error;"
    " where the link is there, check host and port in its url.",
    "server": "The server asks for less, or refuses: its own log says why.",
    "rate": "Its bytes a second hold them back: raise max_rate, or have averages only go: every.",
    "budget": "Its bytes of a day hold them back: raise max_per_day, or have averages only go: every.",
    "clock": f"Nobody knows the time yet, so neither its hours nor its day's budget. {_SYNCHRONISE}",
    "window": "It is not one of its hours: see windows in the gateway's file. Nothing is lost.",
}
_SLOW = {
    "link": "All goes as fast as the link carries it; the server answers at once. A faster link helps, or averages"
    " only: every.",
    "server": "All goes as fast as the server stores it; the link has room. Its own log and load say why; averages only"
    " help it too: every.",
    "link or server": "All goes as fast as the link and the server take it. If the server is busy, its own log says so;"
    " else a faster link helps, or averages only: every.",
    "backend": "All goes as fast as its storage takes it, which does not say what it waits for (wire_waits): see its"
    " own link and server.",
    "gateway": "All goes as fast as this machine reads and encodes it; link and server have room. See what else keeps"
    " its processor or card busy.",
}
"""Where readings go out, and still no faster."""


_STORE_CURES = {
    "full": "Make room on its device; with keep_bytes the store keeps to a size.",
    "Read-only": "It was mounted read-only, as after errors: look why (dmesg), check the file system, mount it again.",
    "": "See what the system says of its device: dmesg.",
}
"""By a word of what the system says; the last for all else."""


def say_trouble(trouble: str) -> Iterator[tuple[str, str]]:
    """Lines with their styles: what is wrong with the local store, and what to do."""
    yield "bold red", trouble
    if trouble.startswith("the store cannot be written"):
        cure = next(cure for word, cure in _STORE_CURES.items() if word in trouble)
        yield "bold red", f"    {cure} What was stored is there; what comes in waits, as far as there is memory for it."


def say_held(held: int, trusted: bool | None) -> Iterator[tuple[str, str]]:
    """Lines with their styles: what waits for the time. `trusted` is whether the gateway knows it, None where none
    runs."""
    if held and trusted:
        yield "yellow", f"Held back: {counted(held, 'reading')}, as nobody knows when they came (uncertain_times)."
        yield (
            "yellow",
            '    With uncertain_times = "release" ([storage]) they go on at the next start, at estimated times.',
        )
    elif held:
        yield "yellow", f"Held back: {counted(held, 'reading')}, until somebody knows the time. Nothing is lost."
        yield "yellow", f"    {_SYNCHRONISE}"


def say_behind(name: str, live: Mapping[str, Any], books: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Lines with their styles; none where it keeps up."""
    limit, pending = live["limited_by"], books.get("pending", 0)
    if live["state"] == "idle":  # what waits is not due yet: the averages of an interval that is not over
        return
    if not pending or (live["lag"] < LATE and limit not in ("budget", "window", "clock")):
        return
    yield "yellow", f"{name} is {duration(live['lag'])} behind, by {counted(pending, 'reading')}; {_when(live)}"
    if live["per_day"] is not None:
        yield "yellow", f"    Of the day's budget of {size(live['per_day'])}, {size(live['spent_today'])} are spent."
    cures = {**_CURES, **_SLOW} if live["state"] == "sending" else _CURES
    if limit in cures and live["state"] != "misconfigured":  # what to mend is said then
        yield "yellow", f"    {cures[limit]}"


def say_given_up(name: str, given_up: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Lines with their styles: the latest of each way in which an upstream's readings went; bright for a day."""
    latest = {one["what"]: one for one in given_up if one["upstream"] == name}
    now = datetime.now(UTC)
    for what, one in latest.items():
        age = (now - datetime.fromisoformat(one["at"])).total_seconds()
        span = " to ".join(one[end][:16].replace("T", " ") + "Z" for end in ("start", "end"))
        style = "yellow" if age < _DAY else "dim"
        yield style, f"{name} does not get {counted(one['rows'], 'reading')} of {span}: {_WAYS[what]}, {ago(age)}."
    if latest:
        yield (
            "dim",
            "    The store keeps no more: allow it more (keep_bytes, keep), or have the upstream take them sooner.",
        )


def _when(live: Mapping[str, Any]) -> str:
    if live["state"] == "held" and live["retry_in"] is not None and live["retry_in"] > LATE:
        later = "" if live["eta"] is None else f", and is up to date in {duration(live['eta'])}"
        return f"goes on in {duration(live['retry_in'])}{later}."
    if live["state"] in ("waiting", "misconfigured", "stopped"):
        return "nothing goes out."
    if live["eta"] is None and live["limited_by"] == "clock":
        return "nothing goes out until somebody knows the time."
    if live["eta"] is None:
        return "it does not become less." if live["delivered"] else "nobody can tell yet for how long."
    return f"up to date in {duration(live['eta'])} at the latest pace."
