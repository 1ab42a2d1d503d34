"""What one sees of the demonstration: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgedepot.demo.site import BEDS

if TYPE_CHECKING:
    from edgedepot.demo.play import Scene

_LOGGER = logging.getLogger("edgedepot")
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 74  # with its frame 78: what a terminal of 80 columns echoes on Ctrl-C still fits behind it
_HISTORY = 58
_LOWEST_TOP = 100  # readings, a second's worth: the usual few pending do not fill the chart
_WITH_DRAINING = 1.1  # the chart's width, in times of the devices' sending
_MESSAGES = 5
_RATE_SECONDS = 1.5


class View(Protocol):
    """Shows scenes, and what the gateway logs."""

    def show(self, scene: Scene) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Rates:
    """Readings a second, over the last moments."""

    def __init__(self) -> None:
        self._scenes: deque[Scene] = deque()

    def add(self, scene: Scene) -> None:
        self._scenes.append(scene)
        while scene.elapsed - self._scenes[0].elapsed > _RATE_SECONDS:
            self._scenes.popleft()

    def of(self, column: str) -> float:
        first, last = self._scenes[0], self._scenes[-1]
        seconds = last.elapsed - first.elapsed
        if seconds <= 0:
            return 0.0
        grown: int = getattr(last.counts, column) - getattr(first.counts, column)
        return max(0.0, grown / seconds)


class LineView(View):
    """A line each second; for logs, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates = Rates()
        self._title = ""
        self._second = -1
        self._handler = _Tell(lambda message: console.print(f"       {message}", markup=False))

    def show(self, scene: Scene) -> None:
        self._rates.add(scene)
        if scene.title != self._title:
            self._title = scene.title
            self._console.print(f"{scene.title}:", markup=False)
        if int(scene.elapsed) != self._second:
            self._second = int(scene.elapsed)
            self._console.print(self._line(scene), markup=False)

    def _line(self, scene: Scene) -> str:
        counts, rate = scene.counts, self._rates.of
        return (
            f"{self._second:3d} s  in {counts.stored:6,} ({rate('stored'):4.0f}/s)  delivered {counts.delivered:6,} "
            f"({rate('delivered'):4.0f}/s)  pending {counts.pending:6,}"
        )

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOGGER.removeHandler(self._handler)


class LiveView(View):
    """A picture that changes in place."""

    def __init__(self, console: Console, upstream: str, seconds: float) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._rates = Rates()
        self._backlog: list[int] = []  # what was pending, a number for each column of the chart
        self._messages: deque[str] = deque(maxlen=_MESSAGES)
        self._handler = _Tell(self._messages.append)
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def show(self, scene: Scene) -> None:
        self._rates.add(scene)
        column = min(int(scene.elapsed / (self._seconds * _WITH_DRAINING) * _HISTORY), _HISTORY - 1)
        self._backlog[column:] = [scene.counts.pending]
        self._backlog += [scene.counts.pending] * (column + 1 - len(self._backlog))
        self._live.update(self._picture(scene), refresh=True)

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self._handler)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        _LOGGER.removeHandler(self._handler)

    def _picture(self, scene: Scene) -> Panel:
        colour = "red" if scene.link_is_cut else "green"
        elapsed = f"{max(0.0, scene.elapsed):.0f} s"
        messages = Text("\n".join(self._messages), style="dim")
        return Panel(
            Group(self._flow(scene), Text(), self._history(scene), Text(), messages),
            title=f"[bold]edgedepot demo[/] · {elapsed} · [{colour}]{scene.title}[/]",
            width=_WIDTH + 4,
            border_style=colour,
        )

    def _flow(self, scene: Scene) -> Table:
        counts = scene.counts
        grid = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right"):
            grid.add_column(justify=justify)
        self._row(grid, "weather station", "serial line", "station", counts.station)
        self._row(grid, f"{BEDS} garden beds", "MQTT", "garden", counts.garden)
        self._row(grid, "local store", "SQLite", "stored", counts.stored, "bold")
        link = "[red]✗ cut[/]" if scene.link_is_cut else "[green]✓ open[/]"
        grid.add_row("link", link, "", "")
        self._row(grid, "upstream", self._upstream, "delivered", counts.delivered, "bold")
        return grid

    def _row(self, grid: Table, name: str, what: str, column: str, count: int, style: str = "") -> None:
        grid.add_row(name, what, f"{count:,} readings", f"{self._rates.of(column):.0f}/s", style=style)

    def _history(self, scene: Scene) -> Text:
        """The pending readings over the whole time."""
        top = max(*self._backlog, _LOWEST_TOP)
        bars = "".join(_BLOCKS[level * (len(_BLOCKS) - 1) // top] for level in self._backlog)
        return Text.assemble(
            ("pending ", "bold"),
            (f"{scene.counts.pending:6,}  ", "bold yellow" if scene.counts.pending > top // 10 else "bold"),
            (bars.ljust(_HISTORY), "yellow"),
        )


class _Tell(logging.Handler):
    """Hands on what the gateway logs."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
