"""mosquitto, an MQTT broker, from Debian 12; always the fetched one, so that all machines behave alike."""

from collections.abc import Mapping
from pathlib import Path

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.packages import LIBWRAP, PackageSet, fetch, libraries
from tests.servers.process import Server, accepts, free_port

PACKAGES = PackageSet(
    "mosquitto",
    "bookworm",
    "mosquitto libcjson1 libdlt2 libsystemd0 libcap2 libgcrypt20 libgpg-error0 liblzma5 libzstd1 liblz4-1 " + LIBWRAP,
)

SETTINGS = {
    "allow_anonymous": "true",
    "user": "root",  # started as root it would change to a user `mosquitto`, which no machine needs to have
    # Its default saves every 30 minutes: killed, it would have forgotten every session. So it saves after each change
    # (in the same round of its loop, yet after the PUBACK: a SIGKILL in between loses what it has acknowledged).
    # A message on its way to a connected subscriber is no change to it, measured: it saves when one is acknowledged.
    # It saves everything each time: 1,000 messages/s with an empty queue, half with 5,000 in it, 16,000 without.
    "persistence": "true",
    "autosave_interval": "1",
    "autosave_on_changes": "true",
    # Beyond these it drops messages without a word to anybody; its defaults are 1000 and 20.
    "max_queued_messages": "100000",
    "max_inflight_messages": "1000",
}


def fetch_mosquitto(folder: Path = FOLDER) -> Path:
    """The unpacked packages, fetched if they are not there yet."""
    return fetch(folder, PACKAGES)


class Mosquitto(Server):
    """One broker with its own persistent state, on 127.0.0.1. `settings` are lines of mosquitto.conf and override
    ours, e.g. `{"max_queued_messages": "100"}`."""

    name = "mosquitto"

    def __init__(
        self, folder: Path = FOLDER, port: int | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self._root = fetch_mosquitto(folder)
        self._work = WorkFolder(folder / "running", "mosquitto")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()
        self._settings = SETTINGS | dict(settings or {})

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def saved_state(self) -> Path:
        """The file of sessions and messages that survives a SIGKILL; payloads stand in it as they are."""
        return self._work.path / "mosquitto.db"

    def command(self) -> list[str]:
        configuration = self._work.path / "mosquitto.conf"
        own = {
            "listener": f"{self.port} 127.0.0.1",
            "persistence_location": f"{self._work.path}/",
            "log_dest": "stderr",
        }
        lines = [f"{name} {value}\n" for name, value in (own | self._settings).items()]
        configuration.write_text("".join(lines))
        program = str(self._root / "usr/sbin/mosquitto")
        return ["env", f"LD_LIBRARY_PATH={libraries(self._root)}", program, "-c", str(configuration)]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def close(self) -> None:
        super().close()
        self._work.close()
