"""A serial port, with pyserial out of sight: it opens and sets the port; waiting and reading are done here.

pyserial reads a byte, asks how many more there are and reads those: two waits and three calls of the kernel where one
each does, and its `select` refuses file numbers from 1024 on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import termios
from collections.abc import Iterator

import msgspec
import serial

from edgedepot.drivers.wake import Wake
from edgedepot.storage.errors import ConfigError, TransportError

CHUNK = 4096
"""Bytes per read; the kernel holds no more for a terminal."""
_PARITIES = {
    "none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD,
    "mark": serial.PARITY_MARK, "space": serial.PARITY_SPACE,
}  # fmt: skip
_PARITIES |= {code: code for code in _PARITIES.values()}


class PortSettings(msgspec.Struct, frozen=True):
    """A port's name and how its line is set. Raises `ConfigError` for what no port has.

    `parity` is "none", "even", "odd", "mark", "space" or the first letter of one. A name below /dev/serial/by-id or
    by-path stays the same when the device is plugged in again.
    """

    name: str
    baudrate: int = 9600
    bytesize: int = 8
    parity: str = "none"
    stopbits: float = 1

    def __post_init__(self) -> None:
        if not self.name or "\0" in self.name:
            raise ConfigError(f"port: found {self.name!r}, expected a path such as '/dev/serial/by-id/usb-...'")
        if type(self.baudrate) is not int or self.baudrate <= 0:
            raise ConfigError(f"baudrate: found {self.baudrate!r}, expected a number such as 9600 or 115200")
        for key, found, allowed in (
            ("bytesize", self.bytesize, serial.Serial.BYTESIZES),
            ("parity", self.parity, _PARITIES),
            ("stopbits", self.stopbits, serial.Serial.STOPBITS),
        ):
            if found not in allowed:
                raise ConfigError(f"{key}: found {found!r}, expected one of {', '.join(map(str, allowed))}")


class Port:
    """An open port, for one thread. As a context manager it closes.

    Raises `TransportError` when it cannot be opened: not there, no permission, in use by another program.
    """

    def __init__(self, settings: PortSettings, wake: Wake) -> None:
        self._name = settings.name
        with self._errors("cannot be opened"):
            self._serial = serial.Serial(
                settings.name,
                settings.baudrate,
                bytesize=settings.bytesize,
                parity=_PARITIES[settings.parity],
                stopbits=settings.stopbits,
                timeout=0,
                exclusive=True,  # advisory: it keeps out other programs that ask, such as another gateway
            )
            self._number: int = self._serial.fileno()
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._poll.register(wake.fileno(), select.POLLIN)

    def read(self, timeout: float | None = None) -> bytes:
        """What is there, at least a byte; blocks until something is. Empty when the wake was set or `timeout` seconds
        passed without any. Raises `TransportError` when the port went away."""
        ready = self._poll.poll(None if timeout is None else timeout * 1000)
        if not any(number == self._number for number, _ in ready):
            return b""
        with self._errors("went away"):
            try:
                chunk = os.read(self._number, CHUNK)
            except BlockingIOError:  # another program reads from it too
                return b""
        if not chunk:
            raise TransportError(f"port {self._name} went away: it is ready and has nothing to read")
        return chunk

    def close(self) -> None:
        """Let go of the port. Idempotent."""
        with contextlib.suppress(OSError, termios.error):  # it may be gone
            self._serial.close()

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """The one place where errors of pyserial, termios and the kernel are mapped."""
        try:
            yield
        except (OSError, termios.error, ValueError) as exc:  # SerialException is an OSError
            raise TransportError(f"port {self._name} {what}: {_explained(exc)}") from exc


def _explained(exc: Exception) -> str:
    cause = getattr(exc, "errno", None)
    if isinstance(exc.__context__, termios.error):  # pyserial hides its number in a text
        cause = exc.__context__.args[0]
    if cause in (errno.ENOTTY, errno.EISDIR):
        return "it is no serial port"
    if cause == errno.ENOENT:
        return "there is no such port; is the device plugged in?"
    if cause in (errno.EACCES, errno.EPERM):
        return "no permission; add this user to the port's group, often dialout"
    if "exclusively lock" in str(exc) or cause == errno.EBUSY:
        return "another program has it open"
    return str(exc)
