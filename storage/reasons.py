"""Why readings and messages went no further, and how many of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fate = Literal["message", "reading", "field", "quarantined"]


@dataclass(frozen=True, slots=True)
class Reason:
    """How many times it was `reason`: messages, readings or fields of a source that were rejected, of those that are
    still kept; or quarantined readings of an upstream, in its own words. `name` is the source's or the upstream's."""

    name: str
    what: Fate
    reason: str
    count: int

    def as_json(self) -> dict[str, object]:
        key = "upstream" if self.what == "quarantined" else "source"
        return {key: self.name, "what": self.what, "reason": self.reason, "count": self.count}
