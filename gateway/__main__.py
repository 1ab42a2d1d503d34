"""``python -m edgedepot``: the command line of just this Python, whatever is on the PATH."""

from edgedepot.cli import main

main()
