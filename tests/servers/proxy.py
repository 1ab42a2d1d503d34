"""A TCP link in front of a real server that a test can cut, silence, or make lose an answer.

    client ---- connection.client | TcpProxy | connection.target ---- server
                       up: client to server, down: server to client

All sockets belong to one thread with an asyncio loop; the public calls hand it their work and wait until it is done.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, Self

from tests.servers import ServerError
from tests.servers.process import free_port

CHUNK = 65536
CALL_TIMEOUT = 10.0
LAST_WORDS = 5.0
"""Seconds that a server has to finish what it was sent before an answer got lost."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that sends RST, as from a machine that knows nothing of the connection."""


class Link(Enum):
    """What the proxy does with bytes at the moment."""

    WHOLE = "forwards both ways"
    SILENT = "accepts and swallows everything"
    ANSWERS_LOST = "forwards up, swallows the next answer, then is cut"
    CUT = "refuses connections"


class Connection:
    """One client and, unless it came while the link was silent, its connection to the target."""

    def __init__(self, client: socket.socket, mark: bytes) -> None:
        self.accepted = client
        self.client: asyncio.StreamWriter | None = None
        self.target: asyncio.StreamWriter | None = None
        self.task: asyncio.Task[None] | None = None
        self.has_hole = False
        """Bytes of it were swallowed: going on would hand either side a stream with a hole, which TCP never does."""
        self.watch_for(mark)

    def watch_for(self, mark: bytes) -> None:
        self._mark = mark
        self._tail = b""
        self.mark_seen = not mark

    def sent_up(self, data: bytes) -> None:
        """Look for the mark, which may come in two pieces."""
        if self.mark_seen:
            return
        text = self._tail + data
        self.mark_seen = self._mark in text
        self._tail = text[-len(self._mark) :]

    def reset(self) -> None:
        """Close both sides with RST, as soon as the loop comes round. Idempotent."""
        for side in (self.client, self.target):
            if side:
                _abort(side)
        if not self.client:
            self.accepted.close()


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a target. As a context manager it starts and closes.

    The port stays the same all its life. All methods may be called from any thread; they return when done.
    """

    def __init__(self, target_host: str, target_port: int, port: int | None = None) -> None:
        self.port = port or free_port()
        self.bytes_up = 0
        """Bytes handed to the target so far; swallowed ones do not count."""
        self.bytes_down = 0
        """Bytes handed to clients so far."""
        self._target = (target_host, target_port)
        self._link = Link.CUT
        self._mark = b""
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._cut = threading.Event()
        self._switching = asyncio.Lock()
        self._after_loss: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def start(self) -> None:
        """Begin to listen and forward."""
        self._thread.start()
        self.mend()

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        self._run(self._do_cut())

    def mend(self) -> None:
        """Forward again. Connections that lost something meanwhile are reset, the others go on."""
        self._run(self._switch(Link.WHOLE))

    def blackhole(self) -> None:
        """Go silent: keep all connections, accept new ones, swallow every byte in both directions."""
        self._run(self._switch(Link.SILENT))

    def drop_answers(self, after: bytes = b"") -> None:
        """Lose an answer: forward what clients send, swallow what comes back, then cut.

        The first answer is meant that follows `after` in what a client sends (such as b"COMMIT", which stands in
        PostgreSQL's protocol as it is); what comes before it passes unharmed. Once the answer is there, the server
        gets the end of its input and time to finish, and then the link is as after `cut()`; see `wait_cut`.
        """
        self._run(self._switch(Link.ANSWERS_LOST, after))

    def wait_cut(self, timeout: float = 10.0) -> None:
        """Wait until the answer was lost and the link is cut; ServerError after `timeout` seconds."""
        if not self._cut.wait(timeout):
            raise ServerError(f"the link is not cut after {timeout:g} s, it {self._link.value}")

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def close(self) -> None:
        """Reset all connections and end. Idempotent."""
        if self._thread.is_alive():
            self._run(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_TIMEOUT)
        if not self._loop.is_closed():
            self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # From here on everything runs in the loop's thread.

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT)

    async def _do_cut(self) -> None:
        async with self._switching:
            await self._take_down()

    async def _finish(self) -> None:
        await self._do_cut()
        if self._after_loss:
            await self._after_loss

    async def _take_down(self) -> None:
        self._link = Link.CUT
        if self._listener:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._end(list(self._connections))
        self._cut.set()

    async def _end(self, connections: list[Connection]) -> None:
        """Stop serving them and reset both sides."""
        tasks = [connection.task for connection in connections if connection.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in connections:
            connection.reset()  # once more, for one that was cancelled before it began
            self._connections.discard(connection)
        await asyncio.sleep(0)  # the loop comes round

    async def _switch(self, link: Link, mark: bytes = b"") -> None:
        async with self._switching:
            self._link, self._mark = link, mark
            self._cut.clear()
            for connection in self._connections:
                connection.watch_for(mark)
            if not self._listener:
                self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
                self._listener.setblocking(False)
                self._loop.add_reader(self._listener, self._accept, self._listener)
            if link is not Link.SILENT:
                await self._end([connection for connection in self._connections if connection.has_hole])

    def _accept(self, listener: socket.socket) -> None:
        # By hand: asyncio.start_server leaves what it is just accepting open and unserved when it is closed.
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it is gone already
        client.setblocking(False)
        connection = Connection(client, self._mark)
        connection.task = self._loop.create_task(self._serve(connection))
        self._connections.add(connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            reader, connection.client = await asyncio.open_connection(sock=connection.accepted)
            await self._forward(connection, reader, connection.client)
        except* OSError:
            pass  # one side is gone, or the target does not listen: the other side gets a reset
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _forward(
        self, connection: Connection, reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        if self._link is Link.SILENT:
            connection.has_hole = True  # the target does not even hear of it
            await self._read(connection, reader)
            return
        answers, connection.target = await asyncio.open_connection(*self._target)
        async with asyncio.TaskGroup() as both_ways:
            both_ways.create_task(self._up(connection, reader, connection.target))
            both_ways.create_task(self._down(connection, answers, client))

    async def _up(self, connection: Connection, reader: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await self._read(connection, reader):
            connection.sent_up(data)
            self.bytes_up += len(data)  # before, so that nobody can have them and find them not counted
            target.write(data)
            await target.drain()
        target.write_eof()

    async def _down(self, connection: Connection, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await self._read(connection, reader):
            if self._link is Link.ANSWERS_LOST and connection.mark_seen:
                await self._lose_answer(client, reader)
                return
            self.bytes_down += len(data)
            client.write(data)
            await client.drain()
        client.write_eof()

    async def _lose_answer(self, client: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        """The server has answered: let it finish all that it was sent, so that its work stands, then cut the link."""
        _abort(client)  # whereupon `_up` passes the end on to the server
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                while await reader.read(CHUNK):
                    pass
        # In a task of its own, for it ends this one.
        self._after_loss = self._loop.create_task(self._cut_after_loss())

    async def _cut_after_loss(self) -> None:
        async with self._switching:
            if self._link is Link.ANSWERS_LOST:  # else the test went on without waiting for this
                await self._take_down()

    async def _read(self, connection: Connection, reader: asyncio.StreamReader) -> bytes:
        """The next bytes to forward, empty at the end. While the link is silent, nothing gets through: no bytes, no
        end and no error. A connection that ended meanwhile stays, for the other side, until the link is mended."""
        while True:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                if self._link is not Link.SILENT:
                    raise
                data = b""
            if self._link is not Link.SILENT:
                return data
            connection.has_hole = True
            if not data:
                await asyncio.Event().wait()  # until `_end` cancels us


def _abort(side: asyncio.StreamWriter) -> None:
    """Close at once with RST."""
    with suppress(OSError):  # it may be closed already
        side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    side.transport.abort()
