"""A pair of serial ports, joined by socat, that can be unplugged and plugged in again."""

from pathlib import Path

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.packages import LIBWRAP, PackageSet, fetch, libraries
from tests.servers.process import Server

PACKAGES = PackageSet("socat", "bookworm", "socat " + LIBWRAP)


def fetch_socat(folder: Path = FOLDER) -> Path:
    """The unpacked packages, fetched if they are not there yet."""
    return fetch(folder, PACKAGES)


class PtyPair(Server):
    """Two pseudo-terminals: what is written to `peer` (the test's end) is read from `device` (the gateway's end), and
    the other way round. Both paths are links with stable names, as udev makes them in /dev/serial/by-id; what they
    point to changes with every plugging in.

    While nobody has an end open, the kernel keeps about 4 KB for it and then makes the writer wait, unlike a wire.
    """

    name = "socat"

    def __init__(self, folder: Path = FOLDER) -> None:
        self._root = fetch_socat(folder)
        self._work = WorkFolder(folder / "running", "pty")
        super().__init__(self._work.path / "log")
        self.device = self._work.path / "device"
        self.peer = self._work.path / "peer"

    def command(self) -> list[str]:
        program = str(self._root / "usr/bin/socat")
        ends = [f"pty,raw,echo=0,link={end}" for end in (self.device, self.peer)]
        return ["env", f"LD_LIBRARY_PATH={libraries(self._root)}", program, "-d", "-d", *ends]

    def is_ready(self) -> bool:
        return self.device.exists() and self.peer.exists()

    def unplug(self) -> None:
        """Both ends vanish, and whoever has one open gets an error or the end of the data."""
        # The names first: a killed socat leaves them, and they would soon point to somebody else's terminal.
        self.device.unlink()
        self.peer.unlink()
        self.kill()

    def replug(self) -> None:
        """Both ends are there again under the same names."""
        self.start()

    def close(self) -> None:
        super().close()
        self._work.close()
