"""The Unix socket on which a running gateway answers, beside its store: ``gateway.db.sock``, for its owner alone.

One connection, one question, one answer, each a line of JSON: ``{"ask": "status"}`` -> ``{"status": {...}}``, or
``{"error": "..."}``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger("edgedepot.gateway")

_PATIENCE = 2.0  # seconds for one question, so that a client that says nothing holds up nobody for long
_QUESTION_LIMIT = 4096
_PATH_LIMIT = 100  # bytes; the kernel's own limit is 107


def socket_path(store: Path) -> Path:
    """Where the gateway that writes this store listens."""
    return store.with_name(store.name + ".sock")


class ControlServer:
    """Answers in a thread of its own. `answers` maps a question to what makes its answer, from that thread."""

    def __init__(self, path: Path, answers: dict[str, Callable[[], Any]]) -> None:
        self.path = path
        self._answers = answers
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="edgedepot-control", daemon=True)

    def start(self) -> None:
        """Listen. Who calls holds the store's lock, so a socket that is there already is a dead process's.

        Where the folder allows no socket the gateway runs without one, and the log says so.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.path.unlink(missing_ok=True)
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: at no moment is it open to others
            with _short(self.path) as short:
                listener.bind(short)
            listener.listen(8)
        except OSError as exc:
            listener.close()
            log.warning("cannot listen on %s (%s): `edgedepot status` will not see live states", self.path, exc)
            return
        self._socket = listener
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and remove the socket."""
        if self._socket is None:
            return
        self.path.unlink(missing_ok=True)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread; close alone would not
        self._thread.join(2 * _PATIENCE)
        self._socket.close()
        self._socket = None

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # shut down
                return
            with connection, contextlib.suppress(OSError):  # the client went away
                connection.settimeout(_PATIENCE)
                connection.sendall(self._answer(_read_line(connection)) + b"\n")

    def _answer(self, question: bytes) -> bytes:
        try:
            name = json.loads(question)["ask"]
            make = self._answers[name]
        except (ValueError, TypeError, KeyError):
            expected = json.dumps({"ask": next(iter(self._answers))})
            return json.dumps({"error": f"not understood, expected a line such as {expected}"}).encode()
        try:
            return json.dumps({name: make()}).encode()
        except Exception as exc:  # the thread's outermost edge
            log.exception("no answer for a client of %s", self.path)
            return json.dumps({"error": f"{type(exc).__name__}: {exc}"}).encode()


def ask(path: Path, name: str) -> Any:
    """What the gateway at that socket answers; None when none does. Blocks for some seconds at most."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2 * _PATIENCE)
            with _short(path) as short:
                connection.connect(short)
            connection.sendall(json.dumps({"ask": name}).encode() + b"\n")
            with connection.makefile("rb") as answer:
                return json.loads(answer.readline()).get(name)
    except (OSError, ValueError):
        return None


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _QUESTION_LIMIT:
        part = connection.recv(_QUESTION_LIMIT)
        if not part:
            break
        line += part
    return line


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for the path that fits into a socket address: through the folder's descriptor, where it is too long."""
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
