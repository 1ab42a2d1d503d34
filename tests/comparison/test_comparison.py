"""docs/comparison.md says what this version answers."""

from tests.comparison.cases import CASES
from tests.comparison.ours import answers
from tests.comparison.table import PAGE, page


def test_the_page_has_todays_answers_of_ours() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [case.title for case in CASES]
    theirs = {case.title: row[2].removesuffix(" |").strip("`") for case, row in zip(CASES, rows, strict=True)}
    assert page(answers(), theirs) == PAGE.read_text()
