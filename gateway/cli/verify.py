"""`edgedepot verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedepot.cli.output import visible
from edgedepot.cli.progress import advancing, progress
from edgedepot.cli.target import FILE, store_path
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.verify import Verified

_DAMAGED = 1


@click.command(
    epilog="""\b
Examples:
  edgedepot verify gateway.toml
  edgedepot verify copy.db --json | jq '.problems[].text'"""
)
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.pass_context
def verify(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Look for damage in the store that nobody has met yet.

    Checks the file's structure, that names are those in the copy beside it, that each hour of history adds up to what
    was stored in it, which tells of values that changed on the card, that the journal and history agree, and that the
    books balance. Changes nothing; works beside a running gateway.

    Exit codes: 0 nothing is wrong, 1 something is, 2 FILE is wrong.
    """
    import msgspec

    from edgedepot.storage.sqlite.verify import Verification

    path = store_path(file)
    with Verification(path) as verification, progress("verify", verification.total) as bar:
        found = verification.run(advancing(bar))
    if as_json:
        click.echo(msgspec.json.encode({"sound": found.sound, **msgspec.structs.asdict(found)}))
    else:
        _print(path, found)
    ctx.exit(0 if found.sound else _DAMAGED)


def _print(path: Path, found: Verified) -> None:
    for problem in found.problems:
        click.echo(f"{problem.kind}: {visible(problem.text)}")
    unfolded = f"; {counted(found.unfolded, 'reading')} not in history yet" if found.unfolded else ""
    verdict = "nothing is wrong" if found.sound else counted(len(found.problems), "problem")
    click.echo(f"{path}: {verdict}. {counted(found.readings, 'reading')} in {counted(found.hours, 'hour')}{unfolded}")
