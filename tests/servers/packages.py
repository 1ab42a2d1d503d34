"""Debian packages, fetched by name and unpacked into a folder of their own. Nothing is installed.

apt runs with a private state: its own list of sources (Debian's archive as this machine knows it, with the suite that
is wanted), its own package lists, its own cache. The machine's apt settings (a proxy, say) stay in force, its packages
and lists are neither read nor changed, so the result is the same on every machine.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tests.servers import ServerError
from tests.servers.folders import locked, say
from tests.servers.sources import KEYRING, archive_address

STAMP = "fetched.txt"
DOCUMENTATION = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian")

LIBWRAP = (
    "libwrap0 libnsl2 libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libcom-err2 libkrb5support0"
    " libkeyutils1 libssl3"
)
"""What bookworm's network programs load besides libc6; a small machine may lack any of it."""


@dataclass(frozen=True)
class PackageSet:
    """Packages of one Debian suite, their names separated by blanks, unpacked together into the folder `name`."""

    name: str
    suite: str
    packages: str

    @property
    def names(self) -> list[str]:
        return self.packages.split()


def fetch(folder: Path, wanted: PackageSet, prepare: Callable[[Path], None] | None = None) -> Path:
    """The folder with the unpacked packages: fetched if it is not there yet, else at once.

    `prepare` may finish the fresh folder. It appears whole or not at all; a second run at the same time waits.
    Raises ServerError with what could not be had.
    """
    target = folder / wanted.name
    if _is_there(target, wanted):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    with locked(folder / "lock", waiting="another run is fetching, waiting for it"):
        if not _is_there(target, wanted):
            _fetch(folder, wanted, prepare, target)
    return target


def libraries(root: Path) -> str:
    """The unpacked libraries' folders, as LD_LIBRARY_PATH wants them (bookworm has some in /lib, some in /usr/lib)."""
    return ":".join(str(path) for path in [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")])


def _fetch(folder: Path, wanted: PackageSet, prepare: Callable[[Path], None] | None, target: Path) -> None:
    scratch = folder / "unfinished"
    shutil.rmtree(scratch, ignore_errors=True)  # from a run that was killed; we hold the lock
    root = scratch / "root"
    root.mkdir(parents=True)
    debs = _download(folder / f"apt-{wanted.suite}", wanted, scratch / "debs")
    say(f"{wanted.name}: unpacking {len(debs)} packages")
    for deb in debs.values():
        run(["dpkg-deb", "-x", str(deb), str(root)], f"cannot unpack {deb.name}")
    for unneeded in DOCUMENTATION:
        shutil.rmtree(root / unneeded, ignore_errors=True)
    if prepare:
        prepare(root)
    lines = [f"suite {wanted.suite}", *(f"{name} {_version(deb)}" for name, deb in debs.items())]
    (root / STAMP).write_text("\n".join([*lines, ""]))
    if target.exists():
        target.rename(scratch / "before")
    root.rename(target)
    shutil.rmtree(scratch)
    say(f"{wanted.name}: ready")


def _is_there(target: Path, wanted: PackageSet) -> bool:
    """Whether the folder's stamp names just the wanted packages, in whatever versions it has them."""
    try:
        suite, *lines = (target / STAMP).read_text().splitlines()
    except FileNotFoundError:
        return False
    return suite == f"suite {wanted.suite}" and [line.split()[0] for line in lines] == wanted.names


def _download(state: Path, wanted: PackageSet, debs: Path) -> dict[str, Path]:
    """The packages' files by package name."""
    apt = ["apt-get", "--quiet", "-c", str(_apt_configuration(state, wanted.suite))]
    say(f"{wanted.name}: reading the package lists of Debian {wanted.suite}")
    run([*apt, "update"], f"cannot read the package lists of Debian {wanted.suite}")
    say(f"{wanted.name}: fetching {len(wanted.names)} packages")
    debs.mkdir()
    what = f"cannot fetch the packages of {wanted.name} from Debian {wanted.suite}"
    run([*apt, "download", *wanted.names], what, folder=debs)
    found = {deb.name.partition("_")[0]: deb for deb in debs.glob("*.deb")}
    missing = set(wanted.names) - set(found)
    if missing:
        raise ServerError(f"{what}: apt-get brought no {', '.join(sorted(missing))}")
    return {name: found[name] for name in wanted.names}


def _version(deb: Path) -> str:
    """From a file name `NAME_VERSION_ARCHITECTURE.deb`, where an epoch's colon is written %3a."""
    return unquote(deb.name.split("_")[1])


def _apt_configuration(state: Path, suite: str) -> Path:
    """Write apt's private state; read after the machine's own configuration, it overrides what it names."""
    if not KEYRING.exists():
        raise ServerError(f"{KEYRING} is missing; it comes with Debian's package debian-archive-keyring")
    for folder in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {archive_address()} {suite} main\n")
    (state / "status").touch()  # as if nothing were installed
    configuration = state / "apt.conf"
    configuration.write_text(
        f"""\
Dir::Etc "{state}/etc";
Dir::Etc::sourcelist "{state}/etc/sources.list";
Dir::Etc::sourceparts "none";
Dir::State "{state}/state";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
APT::Sandbox::User "root"; // the user _apt may not be able to enter this folder
APT::Update::Error-Mode "any"; // a list that could not be read is an error, not a warning
Acquire::Retries "3";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
// What the machine does after its own updates is not for ours.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
    )
    return configuration


def run(
    command: Sequence[str], what: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end and return what it printed; ServerError with `what` and its complaint if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise ServerError(f"{what}: there is no program {command[0]} here; Debian 12 or later is expected") from exc
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        complaints = [line for line in lines if line.startswith("E:")] or lines[-5:]
        raise ServerError("\n  ".join([f"{what} ({command[0]} ended with {done.returncode}):", *complaints]))
    return done.stdout
