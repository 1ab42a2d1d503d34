"""Has atheris look for changes of a store's files that break it: ``python -m tests.storage.sqlite.fuzz``, with
libFuzzer's options, such as ``-max_total_time=SECONDS``. What it finds goes into a file, which given again repeats it.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["edgedepot.storage.sqlite"]):  # their branches guide the search
    from tests.storage.sqlite.fuzz_judge import LONGEST
    from tests.storage.sqlite.fuzzing import make_stores, run_one


class Provided:
    """Numbers that atheris makes up."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def number(self, low: int, high: int) -> int:
        return int(self._provider.ConsumeIntInRange(low, high))

    def some(self, length: int) -> bytes:
        return bytes(self._provider.ConsumeBytes(length))


def main() -> None:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        stores = make_stores(Path(folder))

        def one(data: bytes) -> None:
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            run_one(stores, Path(folder) / "changed", Provided(atheris.FuzzedDataProvider(data)))
            faulthandler.cancel_dump_traceback_later()

        atheris.Setup([sys.argv[0], "-max_len=4096", "-len_control=0", *sys.argv[1:]], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
