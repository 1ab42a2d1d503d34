"""An MQTT broker in a thread: amqtt, which is plain Python. It speaks MQTT 3.1.1 only."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from types import TracebackType
from typing import Any, Self

from edgedepot.storage.errors import ConfigError, TransportError

_PATIENCE = 20.0


class Broker:
    """A broker on a free port of this machine, for as long as the context lasts."""

    def __init__(self) -> None:
        self.port = _free_port()
        self._settings = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="edgedepot-demo-broker", daemon=True)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        _broker_class()  # in this thread, where it can raise
        self._thread.start()
        if not self._ready.wait(_PATIENCE):
            raise TransportError("the embedded MQTT broker did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        broker = _broker_class()(self._settings)
        await broker.start()
        self._ready.set()
        await self._end.wait()
        await broker.shutdown()


def _broker_class() -> Any:
    try:
        from amqtt.broker import Broker as Amqtt
    except ImportError as exc:
        raise ConfigError(f"the demo needs the broker amqtt ({exc}): pip install 'edgedepot[demo]'") from exc
    for name in ("amqtt", "transitions"):  # they tell every connection
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Amqtt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
