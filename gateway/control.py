"""The Unix socket on which a running gateway answers, beside its store: ``gateway.db.sock``, for its owner and root.

One connection, one request, one answer, each a line of JSON (see requests.py):

    {"version": 1, "do": "status"}   ->   {"version": 1, "answer": {...}}
                                     or   {"version": 1, "error": "InvalidValue", "message": "..."}

The error is one of storage/errors.py, and raised again by who asked. A client that says nothing, or does not listen, is
left after some seconds; of those that are served at once there are only so many, and the others wait for their turn.
A socket that has lost its name is made anew: somebody removed it, or the store's file system was unmounted, which an
open socket would keep there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pwd
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgedepot.storage import errors
from edgedepot.storage.errors import ConfigError, EdgeDepotError, InvalidValue, StorageBusy, StorageError, StorageLocked

if TYPE_CHECKING:
    from edgedepot.requests import Desk, Request

log = logging.getLogger("edgedepot.gateway")

PATIENCE = 5.0
"""Seconds for a client to say what it wants, and again to take the answer."""
LOOK = 2.0
"""Seconds after which the server looks whether its name is still there."""
ANSWER_PATIENCE = 120.0
"""Seconds for a gateway to answer: a request may wait for a fold, or for an upstream's last answer."""
_CLIENTS = 8  # at once
_WAITING = 64  # clients that the kernel lets wait
_ANSWER_LIMIT = 1 << 26
_CONNECT_PATIENCE, _CONNECT_PAUSE = 10.0, 0.05  # seconds
_NOBODY_LISTENS = (errno.ENOENT, errno.ECONNREFUSED, errno.ENAMETOOLONG, errno.ENOTDIR)
_PATH_LIMIT = 107  # bytes, the kernel's
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)


def socket_path(store: Path) -> Path:
    """Where the gateway that writes this store listens."""
    return store.with_name(store.name + ".sock")


# -- the gateway's side -----------------------------------------------------------------------------------------------


class ControlServer:
    """Carries out what clients ask, in threads of its own. `desk` is called from any of them. In seconds: `patience`,
    for a client to say what it wants, and again to take the answer; `look`, how often to see to the socket's name."""

    def __init__(self, path: Path, desk: Desk, patience: float = PATIENCE, look: float = LOOK) -> None:
        self.path = path
        self._desk = desk
        self._patience = patience
        self._look = look
        self._socket: socket.socket | None = None
        self._named: os.stat_result | None = None
        self._is_refused = False
        self._wake = -1
        self._thread = threading.Thread(target=self._serve, name="edgedepot-control", daemon=True)
        self._slots = threading.Semaphore(_CLIENTS)
        self._lock = threading.Lock()  # guards what follows
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._stopping = False

    def start(self) -> None:
        """Listen. Who calls holds the store's lock, so a socket that is there already is a dead process's.

        Where the folder allows no socket the gateway runs without one, and the log says so.
        """
        self._listen()
        if self._socket is not None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            self._thread.start()

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.path.unlink(missing_ok=True)
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: at no moment is it open to others
            with _short(self.path) as short:
                listener.bind(short)
                os.chmod(short, 0o600)  # a umask may have taken the owner's own rights
            listener.listen(_WAITING)
            listener.setblocking(False)
            self._named = self.path.stat()
        except OSError as exc:
            listener.close()
            if not self._is_refused:
                log.warning("cannot listen on %s (%s): commands will not reach this gateway", self.path, exc)
            self._is_refused = True
            return
        self._socket, self._is_refused = listener, False

    def stop(self, timeout: float = 10.0) -> None:
        """Take no more requests, remove the socket, and wait for those that are being carried out."""
        if not self._thread.is_alive():
            return
        self._remove()
        with self._lock:
            self._stopping = True
            clients = dict(self._clients)
        os.eventfd_write(self._wake, 1)
        self._slots.release()
        for client in clients.values():
            with contextlib.suppress(OSError):  # it is gone
                client.shutdown(socket.SHUT_RD)  # who has not asked yet is not waited for
        deadline = time.monotonic() + timeout
        for thread in (self._thread, *clients):
            thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            self._close()
            os.close(self._wake)
        self._remove()  # it may have been made anew just then

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # the device may be read-only by now
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _serve(self) -> None:
        while not self._is_stopping():
            if self._socket is None and self.path.with_suffix("").exists():
                self._listen()  # where the store is: nothing may be made in a folder that something is to be mounted on
            if self._is_asked():
                self._accept()
            elif not self._has_name():
                self._close()

    def _is_asked(self) -> bool:
        """Wait for a client; not longer than until it is time to look, or to stop."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._socket is not None:
            poll.register(self._socket, select.POLLIN)
        return any(number != self._wake for number, _ in poll.poll(self._look * 1000))

    def _accept(self) -> None:
        assert self._socket is not None
        self._slots.acquire()
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:  # it has gone away
            self._slots.release()
        except OSError as exc:
            log.warning("control socket: %s", exc)  # out of file descriptors, say
            time.sleep(1.0)
            self._slots.release()
        else:
            client.setblocking(True)
            self._admit(client)

    def _has_name(self) -> bool:
        with contextlib.suppress(OSError):
            return self._named is not None and os.path.samestat(self._named, self.path.stat())
        return False

    def _admit(self, client: socket.socket) -> None:
        thread = threading.Thread(target=self._attend, args=(client,), name="edgedepot-control-client", daemon=True)
        with self._lock:
            try:
                thread.start()
            except RuntimeError as exc:  # no memory, or no threads left
                log.warning("control socket: %s", exc)
                client.close()
                self._slots.release()
                return
            self._clients[thread] = client  # before it can be forgotten, which needs the lock

    def _attend(self, client: socket.socket) -> None:
        from edgedepot.requests import VERSION  # here, as most gateways are left alone

        try:
            with client, contextlib.suppress(OSError):  # it went away, or says nothing, or does not listen
                answer = self._answer(client)
                client.settimeout(self._patience)
                client.sendall(json.dumps({"version": VERSION, **answer}).encode() + b"\n")
        finally:
            with self._lock:
                del self._clients[threading.current_thread()]
            self._slots.release()

    def _answer(self, client: socket.socket) -> dict[str, Any]:
        from edgedepot.requests import SIZE_LIMIT, decode

        try:
            _check_peer(client)
            request = decode(_read_line(client, self._patience, SIZE_LIMIT))
        except EdgeDepotError as exc:
            return _error(exc)
        try:
            return {"answer": request.run(self._desk)}
        except EdgeDepotError as exc:
            return _error(exc)
        except Exception as exc:  # the thread's outermost edge
            log.error("control socket: %s failed", type(request).__name__, exc_info=exc)
            return _error(StorageError(f"the gateway failed at this, see its log: {type(exc).__name__}: {exc}"))

    def _is_stopping(self) -> bool:
        with self._lock:
            return self._stopping


def _check_peer(client: socket.socket) -> None:
    """Who else may open the socket is still not served: rights of files change hands easily."""
    pid, user, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if user not in (0, os.geteuid()):
        log.warning("control socket: refused process %d of %s", pid, _user(user))
        raise StorageLocked(_not_allowed(os.geteuid(), user))


def _not_allowed(owner: int, user: int) -> str:
    allowed = "root" if owner == 0 else f"{_user(owner)} and root"
    return (
        f"the gateway that is running takes commands from {allowed} only, and this is {_user(user)}: "
        f"try it as that user, such as by sudo -u {_user(owner)}"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _read_line(client: socket.socket, patience: float, most: int) -> bytes:
    """All up to the line's end, or to where the client's side ends, in bytes. Raises `TimeoutError`, and `InvalidValue`
    where there are more than that."""
    deadline = time.monotonic() + patience
    line = bytearray()
    while len(line) <= most:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        part = client.recv(1 << 16)
        line += part
        if not part or b"\n" in part:
            return bytes(line.partition(b"\n")[0])
    raise InvalidValue(f"the request is longer than {most} bytes")


def _error(exc: EdgeDepotError) -> dict[str, Any]:
    return {"error": type(exc).__name__, "message": str(exc)}


# -- the client's side ------------------------------------------------------------------------------------------------


def ask(path: Path, request: Request, timeout: float = ANSWER_PATIENCE) -> dict[str, Any] | None:
    """What the gateway at that socket answers; None where no gateway listens.

    Blocks for `timeout` seconds at most. Raises what carrying the request out raised there, `StorageLocked` for who
    may not ask, `StorageBusy` where no answer comes in time, `StorageError` where the gateway hangs up.
    """
    from edgedepot.requests import encode

    line = encode(request)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(timeout)
        if not _connect(server, path):
            return None
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered already
                server.sendall(line)
            with server.makefile("rb") as answer:
                return _read_answer(path, answer.readline(_ANSWER_LIMIT))
        except TimeoutError as exc:
            raise StorageBusy(f"{path}: no answer within {timeout:g} s; whether it will be done is not known") from exc
        except OSError as exc:
            raise StorageError(f"{path}: the gateway hung up: {exc.strerror}") from exc


def _connect(server: socket.socket, path: Path) -> bool:
    deadline = time.monotonic() + _CONNECT_PATIENCE
    while True:
        try:
            with _short(path) as short:
                server.connect(short)
            return True
        except PermissionError as exc:
            raise StorageLocked(f"{path}: {_not_allowed(_owner(path), os.geteuid())}") from exc
        except BlockingIOError as exc:  # more wait than the kernel lets
            if time.monotonic() > deadline:
                raise StorageBusy(f"{path}: the gateway does not answer, and others wait too") from exc
            time.sleep(_CONNECT_PAUSE)
        except OSError as exc:
            if exc.errno in _NOBODY_LISTENS:
                return False
            raise StorageError(f"{path}: {exc.strerror}") from exc


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return 0


def _read_answer(path: Path, line: bytes) -> dict[str, Any]:
    from edgedepot.requests import VERSION

    if not line.endswith(b"\n"):
        raise StorageError(f"{path}: the gateway hung up without an answer; it may have been stopped")
    try:
        found = json.loads(line)
        version = found["version"]
        error, message = str(found.get("error", "")), str(found.get("message", ""))
        answer: dict[str, Any] = found["answer"] if not error else {}
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise StorageError(f"{path}: answers something else, is that a gateway's socket?") from exc
    if version != VERSION:
        raise ConfigError(
            f"{path}: found an answer of version {version}, expected {VERSION}: the gateway runs another version of "
            "edgedepot, use that one's command"
        )
    if error:
        _raise(error, message)
    return answer


def _raise(name: str, message: str) -> NoReturn:
    """Raise an error of ours by its name."""
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, EdgeDepotError):
        raise found(message)
    raise StorageError(message)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for the path that fits into a socket address: through the folder's descriptor, where it is too long.

    Raises `OSError`, also where the file's own name is too long for that.
    """
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(short)) > _PATH_LIMIT:
            text = f"a socket's name may have {_PATH_LIMIT} bytes; give the store a shorter one"
            raise OSError(errno.ENAMETOOLONG, text)
        yield short
    finally:
        os.close(folder)
