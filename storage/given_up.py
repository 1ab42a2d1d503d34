"""What an upstream does not get, as the local store had no room for it, or was not to keep it for so long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Way = Literal["thinned", "evicted"]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Readings that an upstream does not get, as there was no room for them or they were too old: `rows` of those with
    ``start <= timestamp < end`` (aware, in UTC). Those thinned went into the averages of their minutes; those evicted
    are not there in any form. `at` is when the latest of them went."""

    upstream: str
    what: Way
    start: datetime
    end: datetime
    rows: int
    at: datetime

    def as_json(self) -> dict[str, object]:
        """With ISO times."""
        times = {name: getattr(self, name).isoformat() for name in ("start", "end", "at")}
        return {"upstream": self.upstream, "what": self.what, "rows": self.rows} | times

    def __str__(self) -> str:
        return f"{self.rows} readings {self.what}, of {self.start:%Y-%m-%dT%H:%MZ} to {self.end:%Y-%m-%dT%H:%MZ}"
