"""Fetching: the archive from either format of apt's sources, once, whole or not at all."""

import shutil
from pathlib import Path

import pytest

from tests.servers import ServerError
from tests.servers.packages import PackageSet, fetch
from tests.servers.sources import archive_address

THIRD_PARTY = """\
Types: deb
URIs: https://packages.example.org/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/example.gpg
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """An empty /etc/apt."""
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    return tmp_path / "apt"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    path = tmp_path / "os-release"
    path.write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return path


def test_deb822_source(apt: Path, release: Path) -> None:
    (apt / "sources.list.d/a.sources").write_text(THIRD_PARTY)
    (apt / "sources.list.d/debian.sources").write_text(
        "# the security archive has other suites\n"
        "Types: deb\nURIs: http://security.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n"
        "\n"
        "Types: deb\nEnabled: no\nURIs: http://disabled.example.org/debian\nSuites: bookworm\nComponents: main\n"
        "\n"
        "Types: deb deb-src\nURIs: http://mirror.example.org/debian\n# a remark\nSuites: bookworm\n bookworm-updates\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    assert archive_address(apt, release) == "http://mirror.example.org/debian"


def test_one_line_source(apt: Path, release: Path) -> None:
    (apt / "sources.list.d/a.list").write_text(
        "deb [arch=amd64 signed-by=/usr/share/keyrings/example.gpg] https://example.org/debian bookworm main\n"
    )
    (apt / "sources.list").write_text(
        "#deb http://commented.example.org/debian bookworm main\n"
        "deb cdrom:[Debian 12 DVD]/ bookworm main\n"
        "deb-src http://sources.example.org/debian bookworm main\n"
        "deb http://docker.example.org/debian bookworm stable\n"
        "deb  [ arch=amd64 ]  http://mirror.example.org/debian bookworm main contrib # ours\n"
    )
    assert archive_address(apt, release) == "http://mirror.example.org/debian"


def test_entry_with_debians_key_goes_first(apt: Path, release: Path) -> None:
    (apt / "sources.list").write_text(
        "deb http://unsigned.example.org/debian bookworm main\n"
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://signed.example.org/debian stable main\n"
    )
    assert archive_address(apt, release) == "http://signed.example.org/debian"


def test_no_source_of_debian(apt: Path, release: Path) -> None:
    (apt / "sources.list.d/a.sources").write_text(THIRD_PARTY)
    with pytest.raises(ServerError, match=r"no entry for Debian's archive in .* expected one with suite bookworm"):
        archive_address(apt, release)


def test_fetched_once(tmp_path: Path) -> None:
    wanted = PackageSet("small", "bookworm", "libcjson1")
    root = fetch(tmp_path, wanted)
    assert list(root.glob("usr/lib/*/libcjson.so.1"))
    assert (root / "fetched.txt").read_text().startswith("suite bookworm\nlibcjson1 1.")
    shutil.rmtree(tmp_path / "apt-bookworm")
    assert fetch(tmp_path, wanted) == root
    assert not (tmp_path / "apt-bookworm").exists()  # apt was not asked again


def test_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    wanted = PackageSet("wrong", "bookworm", "libcjson1 edgedepot-no-such-package")
    with pytest.raises(ServerError, match=r"(?s)cannot fetch .* wrong .* edgedepot-no-such-package"):
        fetch(tmp_path, wanted)
    assert not (tmp_path / "wrong").exists()
