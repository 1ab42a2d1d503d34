"""`python -m tests.crash [--states 20000] [--seed 1] [theme ...]`: as many crash states as asked for, with figures that
say of which run they are."""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

from tests.crash.campaign import Outcome, judge, recording_of
from tests.crash.themes import THEMES

PER_RECORDING = 500
ROW = "| {:<12} | {:<16} | {:>10} | {:>7} | {:>7} | {:>7} | {:>13} |"


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    arguments.add_argument("themes", nargs="*", metavar="theme", help=", ".join(THEMES))
    arguments.add_argument("--states", type=int, default=20_000, help="different states in all (20000)")
    arguments.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    asked = arguments.parse_args()
    themes = asked.themes or list(THEMES)
    what = ", ".join(asked.themes) or "all themes"
    print(f"{asked.states} states of {what}, seeds from {asked.seed} on, commit {_commit()}:\n")
    print(ROW.format("theme", "seeds", "operations", "cuts", "states", "seconds", "not promised"))
    print(ROW.format(*["---"] * 2, *["---:"] * 5))
    outcomes = [one for theme in themes for one in _run(theme, asked.seed, -(-asked.states // len(themes)))]
    _tell("all", outcomes)
    planted = judge("ingest", asked.seed, recording_of("ingest", asked.seed, "promise at commit"), 500)
    print(f"\nplanted (receipt before the sync): {'found' if planted.broken else 'NOT FOUND'} in {planted.cuts} cuts")
    broken = [text for outcome in outcomes for text in outcome.broken]
    print(*broken, sep="\n", end="\n" if broken else "")
    return 0 if planted.broken and not broken else 1


def _commit() -> str:
    """Which program this is, and whether something in it is changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _run(theme: str, seed: int, states: int) -> list[Outcome]:
    """Recordings of a theme, each with a seed of its own, until there are so many states; the first is cut after each
    of its operations."""
    outcomes: list[Outcome] = []
    for number in itertools.count(seed):
        missing = states - sum(outcome.opened for outcome in outcomes)
        if missing <= 0:
            break
        recording = recording_of(theme, number)
        outcomes.append(judge(theme, number, recording, min(missing, PER_RECORDING), every=number == seed))
    _tell(theme, outcomes)
    return outcomes


def _tell(name: str, outcomes: list[Outcome]) -> None:
    seeds = sorted({outcome.seed for outcome in outcomes})
    print(
        ROW.format(
            name,
            f"{seeds[0]} to {seeds[-1]}",
            sum(outcome.operations for outcome in outcomes),
            sum(outcome.cuts for outcome in outcomes),
            sum(outcome.opened for outcome in outcomes),
            round(sum(outcome.seconds for outcome in outcomes)),
            sum(len(outcome.broken) for outcome in outcomes),
        ),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
