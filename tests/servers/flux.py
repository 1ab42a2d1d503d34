"""The Flux analyser of InfluxData's language server: syntax and meaning of a text, without running it."""

import json
import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import FOLDER, ServerError
from tests.servers.node import fetch_npm, find_node

PACKAGE = "@influxdata/flux-lsp-browser"
VERSION = "0.8.40"
SCRIPT = Path(__file__).with_name("flux_analyser.mjs")


def fetch_flux_analyser(folder: Path = FOLDER) -> Path:
    """The folder of the npm package, fetched if it is not there yet. Its code is made for browsers' bundlers: beside
    it stands a copy that Node can load."""
    return fetch_npm(folder, "flux-analyser", (f"{PACKAGE}@{VERSION}",), prepare=_adapt) / PACKAGE


def _adapt(modules: Path) -> None:
    code = (modules / PACKAGE / "flux-lsp-browser_bg.js").read_text()
    (modules / PACKAGE / "adapted.mjs").write_text(_adapted(code))


def _adapted(code: str) -> str:
    """The package's code with `setWasm(exports)` in place of its import of the WebAssembly and of what uses that at
    once."""
    line = "import * as wasm from './flux-lsp-browser_bg.wasm';\n"
    at_once = re.compile(r"^cached\w+ = new \w+\(wasm\.memory\.buffer\);$", re.MULTILINE)
    statements = at_once.findall(code)
    if line not in code or not statements:
        raise ServerError(f"{PACKAGE} {VERSION} does not import its WebAssembly as expected")
    setter = f"export function setWasm(exports) {{ wasm = exports; {' '.join(statements)} }}\n"
    return at_once.sub("", code).replace(line, "let wasm;\n") + setter


class FluxAnalyser:
    """The analyser in a process of its own. As a context manager it starts and ends; for one thread."""

    def __init__(self, folder: Path = FOLDER) -> None:
        command = [find_node(folder).program, "--no-warnings", str(SCRIPT), str(fetch_flux_analyser(folder))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def problems(self, text: str) -> list[str]:
        """What is wrong with a Flux text, in the analyser's words; empty when nothing is."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(text), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"the Flux analyser ended with {self._process.wait()}")
        found: list[str] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()
