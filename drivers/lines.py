"""Chunks, as a port gives them, into lines."""

from __future__ import annotations


class LineSplitter:
    r"""Splits at ``\n`` or ``\r\n``, wherever the chunks happen to end; holds the beginning of the next line.

    A line longer than `longest` bytes is given as its first `longest` + 1, as soon as that is known, and the rest of it
    is skipped: memory stays bounded, and whoever checks the length sees that it is too long.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk, in order, without their ends; empty lines are among them."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._skipping and lines:
            self._skipping = False
            del lines[0]
        lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        if self._skipping:
            self._rest = b""
        elif len(self._rest) > self._longest and self._is_too_long(self._rest):
            lines.append(self._rest)
            self._rest = b""
            self._skipping = True
        return [line[: self._longest + 1] for line in lines]

    def _is_too_long(self, rest: bytes) -> bool:
        """Whether it is, even if what follows shows its last byte to belong to the line's end."""
        return len(rest) > self._longest + rest.endswith(b"\r")
