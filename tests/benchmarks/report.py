"""Options and report of all benchmarks."""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    scale: float
    rounds: int
    as_json: bool
    long: bool = False

    def of(self, amount: int) -> int:
        """The amount of work at this scale."""
        return max(1, round(amount * self.scale))


def read_options(description: str | None) -> Options:
    """From the command line; ends the process with a usage message where that is wrong."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="do this fraction of the work, e.g. 0.05")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each, default {ROUNDS}")
    parser.add_argument(
        "--long", action="store_true", help="with as many rows as a store has in years, if that matters"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    if given.scale <= 0 or given.rounds < 1:
        parser.error(f"scale {given.scale} and rounds {given.rounds} must be greater than 0")
    return Options(given.scale, given.rounds, given.json, given.long)


@dataclass(frozen=True)
class Comparison:
    """One figure of product and floor, a value for each round.

    The bar is met where the product's median is at least (`at_least`), else at most, `factor` times the floor's
    median, plus `plus`. With `each` that is so of each round by itself, and the worst one decides; with `both_ways` the
    two differ by no more than the factor says in either direction. Without a factor it is printed, and nothing is
    demanded.
    """

    name: str
    unit: str
    floor: Sequence[float]
    product: Sequence[float]
    factor: float | None
    at_least: bool = False
    plus: float = 0.0
    each: bool = False
    both_ways: bool = False

    @property
    def ratio(self) -> float:
        return statistics.median(self.product) / statistics.median(self.floor)

    @property
    def met(self) -> bool:
        if self.each:
            return all(map(self._meets, self.floor, self.product))
        return self._meets(statistics.median(self.floor), statistics.median(self.product))

    def _meets(self, floor: float, product: float) -> bool:
        if self.factor is None:
            return True
        if self.both_ways:
            return self.factor * floor <= product <= floor / self.factor
        bar = self.factor * floor + self.plus
        return product >= bar if self.at_least else product <= bar

    def demand(self) -> str:
        if self.factor is None:
            return ""
        if self.both_ways:
            return f"{self.factor:g}x to {1 / self.factor:.3g}x"
        plus = f" + {self.plus:g} {self.unit}" if self.plus else ""
        each = ", in each round" if self.each else ""
        return f"at {'least' if self.at_least else 'most'} {self.factor:g}x{plus}{each}"


def report(options: Options, comparisons: Sequence[Comparison], **notes: object) -> None:
    """Print what was found, `notes` beside it."""
    print(_json(options, comparisons, notes) if options.as_json else _table(options, comparisons, notes))


def alternate(options: Options, unit: str, contestants: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run the contestants in rounds, in turn, each second round in the opposite order; what each found, by name."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            found[name].append(contestants[name]())
            progress(f"round {number + 1}, {name}: {_round(found[name][-1])} {unit}")
    return found


def progress(text: str) -> None:
    """A line on standard error, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def _table(options: Options, comparisons: Sequence[Comparison], notes: dict[str, object]) -> str:
    rows = [("", "floor", "product", "ratio", "demanded", "")]
    for it in comparisons:
        floor, product = (_spread(values, it.unit) for values in (it.floor, it.product))
        rows.append((it.name, floor, product, f"{it.ratio:.2f}", it.demand(), _verdict(it)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    fewer = [f"; {it.name}: of {len(it.product)}" for it in comparisons if len(it.product) != options.rounds]
    lines.append(f"median (least..greatest) of {options.rounds} rounds, scale {options.scale:g}{''.join(fewer)}")
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in notes.items())])


def _verdict(comparison: Comparison) -> str:
    if comparison.factor is None:
        return ""
    return "met" if comparison.met else "MISSED"


def _spread(values: Sequence[float], unit: str) -> str:
    return f"{_round(statistics.median(values))} ({_round(min(values))}..{_round(max(values))}) {unit}"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _json(options: Options, comparisons: Sequence[Comparison], notes: dict[str, object]) -> str:
    found = [
        {
            "name": it.name,
            "unit": it.unit,
            "floor": list(it.floor),
            "product": list(it.product),
            "ratio": it.ratio,
            "demanded": it.demand(),
            "met": it.met,
        }
        for it in comparisons
    ]
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    return json.dumps(
        {"scale": options.scale, "rounds": options.rounds, **machine, "results": found, **notes}, indent=2
    )
