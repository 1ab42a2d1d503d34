"""Where this machine gets Debian from: read from its own apt sources, so that no address stands in our code."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ServerError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Entry:
    """One entry of apt's sources: one address with one suite."""

    address: str
    suite: str
    components: tuple[str, ...]
    keyring: str
    """What the entry's signed-by says; empty without one."""


def archive_address(apt: Path = Path("/etc/apt"), release: Path = Path("/etc/os-release")) -> str:
    """The address of the Debian archive that this machine uses; every suite of Debian is found below it.

    Entries signed by somebody else's key are third parties'. Of what is left, one that names Debian's key goes
    first. A wrong choice cannot do harm: what is fetched is checked against Debian's key (packages.py).
    """
    suites = {_codename(release), "stable", "oldstable"}
    candidates = [
        entry
        for entry in _entries(apt)
        if entry.suite in suites
        and "main" in entry.components
        and not entry.address.startswith("cdrom:")
        and (not entry.keyring or "debian-archive" in entry.keyring)
    ]
    if not candidates:
        raise ServerError(
            f"no entry for Debian's archive in {apt}/sources.list or {apt}/sources.list.d; expected one with"
            f" suite {' or '.join(sorted(suites))}, component main, signed by {KEYRING} or by nothing named"
        )
    return min(candidates, key=lambda entry: not entry.keyring).address


def _codename(release: Path) -> str:
    for line in release.read_text().splitlines() if release.exists() else []:
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip("\"'")
    raise ServerError(f"{release} names no VERSION_CODENAME; the servers are fetched on Debian 12 or later")


def _entries(apt: Path) -> Iterator[Entry]:
    parts = apt / "sources.list.d"
    if (apt / "sources.list").exists():
        yield from _one_line_entries((apt / "sources.list").read_text())
    for path in sorted(parts.glob("*.list")):
        yield from _one_line_entries(path.read_text())
    for path in sorted(parts.glob("*.sources")):
        yield from _deb822_entries(path.read_text())


def _one_line_entries(text: str) -> Iterator[Entry]:
    """`deb [signed-by=FILE arch=amd64] ADDRESS SUITE COMPONENT...`"""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        if kind != "deb":
            continue
        options = ""
        if rest.lstrip().startswith("["):
            options, _, rest = rest.lstrip()[1:].partition("]")
        settings = dict(option.partition("=")[::2] for option in options.split())
        address, _, rest = rest.strip().partition(" ")
        suite, *components = rest.split() or [""]
        yield Entry(address, suite, tuple(components), settings.get("signed-by", ""))


def _deb822_entries(text: str) -> Iterator[Entry]:
    """Stanzas of `Field: value`, values going on in indented lines; an address and a suite may be several."""
    for stanza in _stanzas(text):
        if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() == "no":
            continue
        for address in stanza.get("uris", "").split():
            for suite in stanza.get("suites", "").split():
                components = tuple(stanza.get("components", "").split())
                yield Entry(address, suite, components, stanza.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    field = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, ""
        elif line[0].isspace():
            stanza[field] = f"{stanza.get(field, '')} {line.strip()}".strip()
        else:
            field, _, value = line.partition(":")
            field = field.strip().lower()
            stanza[field] = value.strip()
