"""A TCP link that breaks at a byte, and remembers what went over it."""

import select
import socket
import struct
import threading
from typing import Self

_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65_536


class Cutter:
    """Forwards 127.0.0.1:`port` to another port; as a context manager it starts and ends.

    `break_at(up=n)` or `break_at(down=n)` resets both sides of the next connection once n bytes have gone that way;
    `break_at()` lets everything through. `up` and `down` hold what the latest connection sent.
    """

    def __init__(self, target: int) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self._target = target
        self._limits: tuple[int | None, int | None] = (None, None)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="cutter")

    def break_at(self, up: int | None = None, down: int | None = None) -> None:
        self._limits = (up, down)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                self.up, self.down = bytearray(), bytearray()
                self._forward(client, server, *self._limits)

    def _forward(self, client: socket.socket, server: socket.socket, up: int | None, down: int | None) -> None:
        ways = {client: (server, self.up, up), server: (client, self.down, down)}
        while True:
            for source in select.select(list(ways), [], [])[0]:
                target, seen, limit = ways[source]
                try:
                    data = source.recv(_CHUNK if limit is None else min(_CHUNK, max(1, limit - len(seen))))
                    seen += data  # before it is handed on: whoever gets the last of it may look at once
                    target.sendall(data)
                except OSError:
                    return
                if not data:
                    return
                if limit is not None and len(seen) >= limit:
                    for side in ways:
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return


def message_ends(sent: bytes, *, startup: bool) -> list[int]:
    """Where the messages of PostgreSQL's protocol end, in what one side sent; a client's first has no type byte."""
    ends: list[int] = []
    position = 0
    while position < len(sent):
        head = 0 if startup and position == 0 else 1
        (length,) = struct.unpack_from(">i", sent, position + head)
        position += head + length
        ends.append(position)
    return ends
