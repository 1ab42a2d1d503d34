"""The page about the command line says what the commands say."""

from tests.docs.command_line import PAGE, helps, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: python -m tests.docs.command_line"


def test_every_command_has_an_example() -> None:
    sections = page().split("\n## ")[2:]
    without = [section.partition("\n")[0] for section in sections if "\n  Example" not in section]
    assert [name for name in without if name != "edgedepot upstream"] == []


def test_every_help_fits_a_terminal() -> None:
    assert [line for _, text in helps(78) for line in text.splitlines() if len(line) > 80] == []
