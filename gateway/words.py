"""How people are told of numbers, by the commands and in the log."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 reading``, ``12,000 readings``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
